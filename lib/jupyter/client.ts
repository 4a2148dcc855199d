/**
 * A kernel, driven over a Jupyter server: started, given cells to run, interrupted, ended.
 *
 * The client is patient. Deno's kernel declares a cell finished before the cell's last outputs have
 * left it, and a client that trusts the declaration loses them; this one listens on until nothing
 * has come for a while.
 *
 * @module
 */
import { kernelName } from "./kernel_spec.ts";
import type { Output } from "./notebook.ts";
import { type Displays, OutputCollector } from "./outputs.ts";
import { type JupyterServer, request } from "./server.ts";

/** How long after the end of a cell, or after its last late output, another one may come. */
const graceMilliseconds = 250;

/** Longest start of a kernel. */
const startMilliseconds = 120_000;

/** How a cell ended. */
export interface Execution {
  /** What stands below the cell; late outputs may still be added by later cells. */
  readonly outputs: Output[];
  /** The number that Jupyter shows in brackets. */
  readonly count: number | null;
  /** Whether the cell ended by itself; otherwise the last output says why. */
  readonly succeeded: boolean;
}

/** What a kernel says of its language, as notebooks store it. */
export type LanguageInfo = Readonly<Record<string, unknown>>;

/** A message of the kernel's protocol, as the server passes it on. */
interface Message {
  readonly channel: "shell" | "iopub" | "control" | "stdin";
  readonly header: { readonly msg_id: string; readonly msg_type: string };
  readonly parent_header: { readonly msg_id?: string };
  // deno-lint-ignore no-explicit-any
  readonly content: any;
}

/** A request that has not been answered in full. */
interface Pending {
  // deno-lint-ignore no-explicit-any
  reply: any;
  idle: boolean;
  /** Resolves {@linkcode finished}; a timer once the answer is complete. */
  timer: ReturnType<typeof setTimeout> | undefined;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  readonly finished: Promise<void>;
}

/** A running kernel. */
export class KernelSession implements AsyncDisposable {
  /** What the kernel says of its language. */
  languageInfo: LanguageInfo = {};
  readonly #server: JupyterServer;
  readonly #id: string;
  readonly #socket: WebSocket;
  readonly #session = crypto.randomUUID();
  readonly #pending = new Map<string, Pending>();
  readonly #collectors = new Map<string, OutputCollector>();
  readonly #displays: Displays = new Map();
  #closed = false;
  /** Why nothing can be asked any more. */
  #failure: Error | undefined;

  private constructor(server: JupyterServer, id: string) {
    this.#server = server;
    this.#id = id;
    const query = new URLSearchParams({ session_id: this.#session, token: server.token });
    const url = `${server.url.replace(/^http/, "ws")}/api/kernels/${id}/channels?${query}`;
    this.#socket = new WebSocket(url);
    this.#socket.onmessage = ({ data }) => this.#accept(JSON.parse(data));
    this.#socket.onclose = () => this.#fail(new Error("the connection to the kernel was lost"));
  }

  /**
   * Starts a kernel.
   *
   * @param server The server to start it on.
   * @param folder The kernel's working folder, an absolute path.
   * @throws {Error} if the kernel does not start.
   */
  static async start(server: JupyterServer, folder: string): Promise<KernelSession> {
    // The server knows folders by their path below its own root, which is the file system's.
    const path = folder.replaceAll("\\", "/").replace(/^([A-Za-z]:)?\/+/, "");
    const { id } = await request(server, "POST", "/api/kernels", { name: kernelName, path }) as {
      id: string;
    };
    const session = new KernelSession(server, id);
    try {
      await new Promise<void>((resolve, reject) => {
        session.#socket.onopen = () => resolve();
        session.#socket.onerror = () => reject(new Error("the server refuses a connection to it"));
      });
      const { reply } = await session.#ask("kernel_info_request", {}, startMilliseconds);
      session.languageInfo = reply.language_info;
      return session;
    } catch (cause) {
      // A kernel that is not there can't be ended; why it isn't is the news.
      await session.close().catch(() => {});
      throw new Error(`the kernel "${kernelName}" did not start`, { cause });
    }
  }

  /**
   * Runs a cell and waits for its end.
   *
   * @param code The cell's text.
   * @param seconds Longest time that it may take.
   * @throws {Error} if the kernel dies, or if the time is up (the kernel is interrupted then).
   */
  async execute(code: string, seconds = Infinity): Promise<Execution> {
    const content = {
      code,
      silent: false,
      store_history: true,
      user_expressions: {},
      allow_stdin: false,
      stop_on_error: true,
    };
    const collector = new OutputCollector(this.#displays);
    const { reply } = await this.#ask("execute_request", content, 1000 * seconds, collector);
    const succeeded = reply.status === "ok";
    if (!succeeded && collector.outputs.at(-1)?.output_type !== "error") {
      // An interrupted cell's end is told by the reply alone.
      collector.accept({ type: "error", content: reply });
    }
    return { outputs: collector.outputs, count: reply.execution_count ?? null, succeeded };
  }

  /** Stops what the kernel is doing. */
  async interrupt(): Promise<void> {
    await request(this.#server, "POST", `/api/kernels/${this.#id}/interrupt`);
  }

  /** Ends the kernel, unless it has ended already. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#disconnect();
    await request(this.#server, "DELETE", `/api/kernels/${this.#id}`);
  }

  /** Ends the kernel. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #ask(
    type: string,
    content: unknown,
    milliseconds: number,
    collector?: OutputCollector,
  ): Promise<Pending> {
    if (this.#failure) throw this.#failure;
    const id = crypto.randomUUID();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const pending: Pending = {
      reply: undefined,
      idle: false,
      timer: undefined,
      resolve,
      reject,
      finished: promise,
    };
    this.#pending.set(id, pending);
    if (collector) this.#collectors.set(id, collector);
    const late = milliseconds === Infinity ? undefined : setTimeout(async () => {
      reject(new Error(`it took longer than ${milliseconds / 1000} s`));
      await this.interrupt().catch(() => {});
    }, milliseconds);
    try {
      this.#socket.send(JSON.stringify({
        channel: "shell",
        header: {
          msg_id: id,
          msg_type: type,
          username: "",
          session: this.#session,
          date: new Date().toISOString(),
          version: "5.3",
        },
        parent_header: {},
        metadata: {},
        content,
        buffers: [],
      }));
      await pending.finished;
      return pending;
    } finally {
      clearTimeout(late);
      clearTimeout(pending.timer);
      this.#pending.delete(id);
    }
  }

  #accept({ channel, header, parent_header, content }: Message): void {
    const state = header.msg_type === "status" ? content.execution_state : undefined;
    if (state === "dead") {
      this.#closed = true;
      this.#fail(
        new Error("the kernel died: it ran out of memory, or something ended its process"),
      );
      this.#disconnect();
      return;
    }
    const parent = parent_header.msg_id ?? "";
    // Outputs of a cell that was thought finished still belong to it.
    this.#collectors.get(parent)?.accept({ type: header.msg_type, content });
    const pending = this.#pending.get(parent);
    if (!pending) return;
    if (channel === "shell") pending.reply = content;
    if (state === "idle") pending.idle = true;
    if (pending.reply && pending.idle) {
      clearTimeout(pending.timer);
      pending.timer = setTimeout(pending.resolve, graceMilliseconds);
    }
  }

  async #disconnect(): Promise<void> {
    if (this.#socket.readyState === WebSocket.CLOSED) return;
    const closed = new Promise((resolve) => this.#socket.addEventListener("close", resolve));
    this.#socket.close();
    await closed;
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#pending.values()) reject(error);
  }
}
