/**
 * The page on which people vote, served locally, and blind: the browser learns the place of a question
 * in a person's own order, the words, and two pictures under the addresses "left" and "right", but
 * nothing of what the study calls its items, comparisons and models.
 *
 * @module
 */
import { annotatorName } from "./annotator_name.ts";
import { type Ask, asksOf } from "./asks.ts";
import { pictureOf } from "./picture.ts";
import { imageAt, type StoredStudy } from "./study.ts";
import type { VoteStore } from "./votes.ts";

/** What {@linkcode serveStudy} serves, and where. */
export interface StudyServerOptions {
  readonly study: StoredStudy;
  readonly votes: VoteStore;
  /** The address to listen on; `127.0.0.1`, this machine only, unless given. */
  readonly hostname?: string;
  /** 0, the default, takes any free port. */
  readonly port?: number;
  /** Ends the server; answers that are under way are finished. */
  readonly signal?: AbortSignal;
}

/** A server at work. */
export interface StudyServer {
  readonly port: number;
  /** Fulfilled when the server has ended. */
  readonly finished: Promise<void>;
}

/** Where in a person's order a question stands, and what the page shows. All that a browser is told. */
export interface Turn {
  /** The study's digest, which the page sends back with each vote. */
  readonly study: string;
  readonly annotator: string;
  /** How many questions there are. */
  readonly total: number;
  /** How many of them the person has answered. */
  readonly answered: number;
  /** The question; null when all are answered. */
  readonly ask: {
    /** Its place in the person's order, from 0. */
    readonly at: number;
    readonly question: string;
    /** Null for a question that hides it. */
    readonly prompt: string | null;
    /** Addresses of the left and the right picture. */
    readonly images: readonly [string, string];
    /** What the person has chosen before. */
    readonly chosen: Side | null;
  } | null;
  /** Addresses of the pictures that come next, for the browser to load ahead. */
  readonly ahead: readonly string[];
}

/** A side of the page; on a narrow screen the left picture is the upper one. */
export type Side = "left" | "right";

const sides = ["left", "right"] as const;

/** A vote takes about 200 bytes. */
const mostBytes = 4096;

/** A page left open for longer than this did not measure a decision. */
const mostMilliseconds = 30 * 24 * 3600 * 1000;

const assets = {
  "/": { file: "page.html", type: "text/html; charset=utf-8" },
  "/page.css": { file: "page.css", type: "text/css; charset=utf-8" },
  "/page.js": { file: "page.js", type: "text/javascript; charset=utf-8" },
} as const;

/** Nothing from elsewhere is loaded, and no other site can embed the page or learn its address. */
const safety = {
  "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; " +
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; " +
    "frame-ancestors 'none'",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
};

/** A request that cannot be answered, and why, in words for whoever sent it. */
class Refusal extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/**
 * Serves the page until the signal ends it.
 *
 * @param options What, and where.
 * @throws {Error} if the port is taken.
 */
export async function serveStudy(options: StudyServerOptions): Promise<StudyServer> {
  const { study, votes, hostname = "127.0.0.1", port = 0, signal } = options;
  const handler = await studyHandler(study, votes);
  let server: Deno.HttpServer<Deno.NetAddr>;
  try {
    server = Deno.serve({ hostname, port, onListen() {} }, handler);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.AddrInUse)) throw cause;
    throw new Error(
      `port ${port} of ${hostname} is taken by another program: choose another port, or 0 for any`,
    );
  }
  const end = () => void server.shutdown();
  signal?.addEventListener("abort", end);
  if (signal?.aborted) end();
  const finished = server.finished.finally(() => signal?.removeEventListener("abort", end));
  return { port: server.addr.port, finished };
}

/**
 * Answers the page's requests.
 *
 * @param stored The study.
 * @param votes Where votes are read and written.
 */
export async function studyHandler(
  stored: StoredStudy,
  votes: VoteStore,
): Promise<(request: Request) => Promise<Response>> {
  const pages = new Map(
    await Promise.all(
      Object.entries(assets).map(async ([path, { file, type }]) => {
        const content = await Deno.readTextFile(new URL(file, import.meta.url));
        return [path, { content, type }] as const;
      }),
    ),
  );

  const answer = async (request: Request): Promise<Response> => {
    const { pathname, searchParams } = new URL(request.url);
    const only = (method: string) => {
      if (request.method !== method) {
        throw new Refusal(405, `${pathname} takes ${method}, not ${request.method}`);
      }
    };
    const page = pages.get(pathname);
    if (page) {
      only("GET");
      const headers = { "content-type": page.type, "cache-control": "no-cache" };
      return new Response(page.content, { headers });
    }
    if (pathname === "/api/next") {
      only("GET");
      const at = searchParams.get("at");
      return json(
        turnOf(stored, votes, annotatorOf(searchParams), at === null ? null : Number(at)),
      );
    }
    if (pathname === "/api/vote") {
      only("POST");
      return json(await cast(stored, votes, request));
    }
    const picture = pathname.match(/^\/image\/(\d+)\/(left|right)$/);
    if (picture) {
      only("GET");
      sameStudy(stored, searchParams.get("study"));
      const ask = askAt(asksOf(stored, annotatorOf(searchParams)), Number(picture[1]));
      const { study, images } = stored;
      const place = ask.item[imageOn(ask, picture[2] as Side)];
      const { width, height } = study.models[place.model]!;
      const png = await pictureOf(imageAt(study, images, place), width, height);
      // The address names the study, so that what it shows never changes.
      const headers = { "content-type": "image/png", "cache-control": "private, max-age=3600" };
      return new Response(png, { headers });
    }
    throw new Refusal(404, `there is nothing at ${pathname}`);
  };

  return async (request) => {
    let response: Response;
    try {
      response = await answer(request);
    } catch (error) {
      if (error instanceof Refusal) response = json({ error: error.message }, error.status);
      else {
        console.error(error);
        response = json({ error: "the server failed; its window says why" }, 500);
      }
    }
    for (const [name, value] of Object.entries(safety)) response.headers.set(name, value);
    return response;
  };
}

function json(content: unknown, status = 200): Response {
  return Response.json(content, { status, headers: { "cache-control": "no-store" } });
}

/** Which of the item's images is on a side. */
function imageOn({ left }: Ask, side: Side): "a" | "b" {
  return (side === "left") === (left === "a") ? "a" : "b";
}

/** What a person is asked at a place of the order, or first of what is still open. */
function turnOf(stored: StoredStudy, votes: VoteStore, annotator: string, at: number | null): Turn {
  const { digest } = stored;
  const { asks, choices, open } = standing(stored, votes, annotator);
  const place = at ?? open;
  if (place !== asks.length) askDue(asks, place, open);
  const images = (at: number) =>
    sides.map((side) =>
      `/image/${at}/${side}?` + new URLSearchParams({ study: digest, annotator })
    ) as unknown as [string, string];
  const ask = asks[place];
  const choice = choices[place];
  return {
    study: digest,
    annotator,
    total: asks.length,
    answered: choices.filter((choice) => choice !== undefined).length,
    ask: ask
      ? {
        at: place,
        question: ask.question.text,
        prompt: ask.question.showPrompt ? ask.item.prompt : null,
        images: images(place),
        chosen: choice ? (choice === ask.left ? "left" : "right") : null,
      }
      : null,
    ahead: asks[place + 1] ? images(place + 1) : [],
  };
}

/** A person's order, what was chosen at each of its places, and the first place without a choice. */
function standing(stored: StoredStudy, votes: VoteStore, annotator: string) {
  const asks = asksOf(stored, annotator);
  const key = (item: string, question: string) => JSON.stringify([item, question]);
  const cast = new Map(
    votes.of(stored.digest, annotator).map((vote) => [key(vote.item, vote.question), vote.choice]),
  );
  const choices = asks.map((ask) => cast.get(key(ask.item.id, ask.question.id)));
  const open = choices.indexOf(undefined);
  return { asks, choices, open: open < 0 ? asks.length : open };
}

async function cast(stored: StoredStudy, votes: VoteStore, request: Request): Promise<Turn> {
  const vote = await bodyOf(request);
  sameStudy(stored, vote.study);
  const annotator = named(vote.annotator);
  const { asks, open } = standing(stored, votes, annotator);
  const { item, question, left } = askDue(asks, vote.at, open);
  const side = sides.find((side) => side === vote.side);
  if (!side) {
    throw new Refusal(400, `side is ${JSON.stringify(vote.side)}; expected "left" or "right"`);
  }
  const { milliseconds } = vote;
  if (
    typeof milliseconds !== "number" || !Number.isInteger(milliseconds) || milliseconds < 0 ||
    milliseconds > mostMilliseconds
  ) {
    throw new Refusal(
      400,
      `milliseconds is ${JSON.stringify(milliseconds)}; expected a whole number from 0 to ` +
        mostMilliseconds,
    );
  }
  votes.cast(stored.digest, {
    annotator,
    item: item.id,
    question: question.id,
    choice: imageOn({ item, question, left }, side),
    left,
    milliseconds,
    time: new Date().toISOString(),
  });
  return turnOf(stored, votes, annotator, null);
}

/** A vote's fields, as yet unchecked. */
async function bodyOf(request: Request): Promise<Readonly<Record<string, unknown>>> {
  // A page of another site may send other types without being asked back by the browser.
  const type = request.headers.get("content-type") ?? "none";
  if (!/^application\/json\b/i.test(type)) {
    throw new Refusal(415, `a vote's content type is application/json, found ${type}`);
  }
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of request.body ?? []) {
    bytes += chunk.length;
    if (bytes > mostBytes) throw new Refusal(413, `a vote takes at most ${mostBytes} bytes`);
    chunks.push(chunk);
  }
  let content: unknown;
  try {
    content = JSON.parse(await new Blob(chunks as Uint8Array<ArrayBuffer>[]).text());
  } catch {
    throw new Refusal(400, "the vote is not JSON");
  }
  if (typeof content !== "object" || content === null || Array.isArray(content)) {
    throw new Refusal(400, "a vote is a JSON object");
  }
  return content as Record<string, unknown>;
}

function annotatorOf(parameters: URLSearchParams): string {
  return named(parameters.get("annotator"));
}

function named(annotator: unknown): string {
  if (typeof annotator !== "string") throw new Refusal(400, "annotator, your name, is missing");
  try {
    return annotatorName(annotator);
  } catch (error) {
    if (error instanceof RangeError) throw new Refusal(400, error.message);
    throw error;
  }
}

/** A page that is still open from another study must not vote on this one. */
function sameStudy({ digest }: StoredStudy, study: unknown): void {
  if (study === digest) return;
  throw new Refusal(409, "the server now has another study than this page: load the page again");
}

function askAt(asks: readonly Ask[], at: unknown): Ask {
  const ask = typeof at === "number" ? asks[at] : undefined;
  if (ask) return ask;
  throw new Refusal(
    400,
    `there is no question ${JSON.stringify(at)}; they are 0 to ${asks.length - 1}`,
  );
}

/** The question at a place, which may be answered already but must not skip an open one. */
function askDue(asks: readonly Ask[], at: unknown, open: number): Ask {
  const ask = askAt(asks, at);
  if (at as number <= open) return ask;
  throw new Refusal(409, `question ${at} is not due: the next is ${open}; load the page again`);
}
