/**
 * A Jupyter server of our own: found, started on a free port with a secret token, and stopped with
 * its kernels however the work with it ends.
 *
 * @module
 */
import { parse } from "node:path";
import { withCleanup } from "./cleanup.ts";

/** A running server. */
export interface JupyterServer {
  /** Such as `http://127.0.0.1:40123`. */
  readonly url: string;
  /** Authorises every request. */
  readonly token: string;
}

/** How a server is started. */
export interface ServerOptions {
  /** The `jupyter` executable. */
  readonly jupyter: string;
  /** Folder with kernel specifications, as {@linkcode installKernel} makes it. */
  readonly kernels: string;
  /** Environment variables that kernels see beside those of this process. */
  readonly env?: Readonly<Record<string, string>>;
}

/** What Jupyter's parts are called on its command line, and the packages that bring them. */
const packages = { server: "jupyter-server", lab: "jupyterlab" } as const;

/** The virtual environment that the advice below makes, and that is looked into by itself. */
const environment = "data/cache/venv";
const environmentJupyter = Deno.build.os === "windows"
  ? `${environment}/Scripts/jupyter.exe`
  : `${environment}/bin/jupyter`;

/**
 * Finds Jupyter: the path given, else the project's own virtual environment, else `PATH`.
 *
 * @param part Which part of it is needed.
 * @param given The path of the `jupyter` executable, where the user named one.
 * @returns The executable.
 * @throws {Error} if none has the part; says what to install.
 */
export async function findJupyter(part: "server" | "lab", given?: string): Promise<string> {
  const candidates = given === undefined ? [environmentJupyter, "jupyter"] : [given];
  for (const candidate of candidates) {
    if (await answers(candidate, part)) return candidate;
  }
  throw new Error(
    `Jupyter was not found: "${candidates.at(-1)} ${part} --version" does not run, which package ` +
      `${packages[part]} brings.\nInstall it, or name another one with --jupyter PATH:\n` +
      `  python3 -m venv ${environment}\n` +
      `  ${environmentJupyter.replace("jupyter", "pip")} install jupyterlab plotly`,
  );
}

async function answers(jupyter: string, part: string): Promise<boolean> {
  try {
    const { success } = await new Deno.Command(jupyter, { args: [part, "--version"] }).output();
    return success;
  } catch (error) {
    // NotCapable: what isn't on PATH can't be allowed by its name.
    if (
      error instanceof Deno.errors.NotFound || error instanceof Deno.errors.PermissionDenied ||
      error instanceof Deno.errors.NotCapable
    ) return false;
    throw error;
  }
}

/**
 * What every server is told. Jupyter drops outputs beyond a megabyte per second unless its limit is
 * lifted, and a table of images is more. In containers one is root.
 */
export const serverArguments: readonly string[] = [
  "--allow-root",
  "--ZMQChannelsWebsocketConnection.limit_rate=False",
];

/**
 * Jupyter is kept from hearing Ctrl-C by itself, since it then leaves its kernels behind unless it is
 * asked to end in another way. Windows has no such way, and needs no keeping.
 */
export const detached: boolean = Deno.build.os !== "windows";

/**
 * Asks a server to end, which ends its kernels too; after ten seconds it is not asked any more.
 *
 * @param process The server.
 */
export async function stopServer(process: Deno.ChildProcess): Promise<void> {
  const end = (signal: Deno.Signal) => {
    try {
      process.kill(signal);
    } catch {
      // It has ended already.
    }
  };
  end("SIGTERM");
  const late = setTimeout(end, 10_000, "SIGKILL");
  await process.status;
  clearTimeout(late);
}

/**
 * Starts a server, works with it, and stops it together with its kernels.
 *
 * @param options Which Jupyter, and which kernels.
 * @param work What is done while the server runs.
 * @returns What `work` returned.
 * @throws {Error} if the server does not come up; quotes what it said last.
 */
export async function withServer<T>(
  options: ServerOptions,
  work: (server: JupyterServer) => Promise<T>,
): Promise<T> {
  const port = freePort();
  const token = crypto.randomUUID();
  const process = new Deno.Command(options.jupyter, {
    args: [
      "server",
      "--no-browser",
      "--ServerApp.ip=127.0.0.1",
      `--ServerApp.port=${port}`,
      "--ServerApp.port_retries=0",
      // Kernels are started in any folder below.
      `--ServerApp.root_dir=${parse(Deno.cwd()).root}`,
      // A kernel that dies is an error to report. Restarted, it would also outlive a server that is
      // stopped at that moment.
      "--KernelRestarter.restart_limit=0",
      ...serverArguments,
    ],
    // The token is no argument, since every user of a machine can list those. Settings of the
    // user's, such as a password or certificates, would keep us out.
    env: {
      ...options.env,
      JUPYTER_PATH: options.kernels,
      JUPYTER_TOKEN: token,
      JUPYTER_NO_CONFIG: "1",
    },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
    detached,
  }).spawn();
  const log = new Tail(process.stderr);
  let ended = false;
  process.status.then(() => ended = true);
  const server = { url: `http://127.0.0.1:${port}`, token };
  return await withCleanup(async () => {
    await untilItAnswers(server, () => {
      if (ended) throw new Error(`the Jupyter server ended at its start:\n${log.text}`);
    });
    return await work(server);
  }, async () => {
    if (!ended) await stopServer(process);
    await log.close();
  });
}

/**
 * Asks a server's REST interface.
 *
 * @param server The server.
 * @param method Such as `POST`.
 * @param path Below the server's address, such as `/api/kernels`.
 * @param body What is sent, as JSON.
 * @returns The answer; undefined where it has no content.
 * @throws {Error} if the server refuses; quotes its answer.
 */
export async function request(
  server: JupyterServer,
  method: string,
  path: string,
  body?: unknown,
): Promise<unknown> {
  const response = await fetch(server.url + path, {
    method,
    headers: { Authorization: `token ${server.token}` },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (!response.ok) {
    throw new Error(`Jupyter refuses ${method} ${path}: ${response.status} ${text}`);
  }
  return text === "" ? undefined : JSON.parse(text);
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Seconds until a server that does not answer is given up: a cold start reads thousands of files. */
const patience = 120;

async function untilItAnswers(server: JupyterServer, check: () => void): Promise<void> {
  const deadline = performance.now() + 1000 * patience;
  while (true) {
    check();
    try {
      await request(server, "GET", "/api/status");
      return;
    } catch (cause) {
      if (performance.now() > deadline) {
        throw new Error(`the Jupyter server does not answer after ${patience} s`, { cause });
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** The last that a process said. */
class Tail {
  text = "";
  readonly #reader: ReadableStreamDefaultReader<string>;

  constructor(stream: ReadableStream<Uint8Array<ArrayBuffer>>) {
    this.#reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    this.#drain();
  }

  /** Reads no further: a stream may be held open by others than the process. */
  async close(): Promise<void> {
    await this.#reader.cancel();
  }

  async #drain(): Promise<void> {
    while (true) {
      const { done, value } = await this.#reader.read();
      if (done) return;
      this.text = (this.text + value).slice(-4000);
    }
  }
}
