/** The server as a browser meets it: turns, votes, refusals, and nothing that tells the models apart. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import sharp from "sharp";
import { serveStudy, studyHandler, type Turn } from "../../lib/annotation/server.ts";
import { readStudy } from "../../lib/annotation/study.ts";
import { VoteStore } from "../../lib/annotation/votes.ts";
import { makeTinyStudy, secrets, side } from "./tiny_study.ts";

/** A study, an empty store, and a browser's requests without a network. */
async function withStudy(
  body: (at: {
    get: (path: string) => Promise<Response>;
    next: (annotator: string, place?: number) => Promise<Turn>;
    post: (vote: unknown, type?: string) => Promise<Response>;
    vote: (turn: Turn, side: string) => Promise<Turn>;
    votes: VoteStore;
    restart: () => Promise<void>;
  }) => Promise<void>,
): Promise<void> {
  const folder = await makeTinyStudy();
  {
    using votes = new VoteStore(`${folder}/votes.sqlite`);
    const make = async () => await studyHandler(await readStudy(folder), votes);
    let handler = await make();
    const get = (path: string) => handler(new Request(`http://localhost${path}`));
    const post = (vote: unknown, type = "application/json") =>
      handler(
        new Request("http://localhost/api/vote", {
          method: "POST",
          headers: { "content-type": type },
          body: typeof vote === "string" ? vote : JSON.stringify(vote),
        }),
      );
    await body({
      get,
      post,
      votes,
      next: async (annotator, place) => {
        const query = new URLSearchParams({
          annotator,
          ...(place === undefined ? {} : { at: String(place) }),
        });
        const response = await get(`/api/next?${query}`);
        assertEquals(response.status, 200);
        return await response.json();
      },
      vote: async ({ study, annotator, ask }, side) => {
        const response = await post({ study, annotator, at: ask!.at, side, milliseconds: 10 });
        assertEquals(response.status, 200);
        return await response.json();
      },
      restart: async () => void (handler = await make()),
    });
  }
  await Deno.remove(folder, { recursive: true });
}

/** Which image a response holds: its model's letter and its row. */
async function seen(response: Response): Promise<string> {
  assertEquals(response.headers.get("content-type"), "image/png");
  const bytes = new Uint8Array(await response.arrayBuffer());
  const { data, info } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true });
  assertEquals([info.width, info.height], [512, 512]);
  assertEquals(512 % side, 0);
  return `${data[0] === 255 ? "a" : "b"}${data[1]! / 60}`;
}

Deno.test("a person goes through all questions and each vote is stored as it was meant", () =>
  withStudy(async ({ get, next, vote, votes }) => {
    const study = (await next("anna")).study;
    const expected: string[] = [];
    let turn = await next(" Anna ");
    assertEquals([turn.annotator, turn.total, turn.answered], ["anna", 12, 0]);
    for (let i = 0; i < 12; i++) {
      assertEquals([turn.ask!.at, turn.answered, turn.ask!.chosen], [i, i, null]);
      assertEquals(turn.ahead.length, i < 11 ? 2 : 0);
      const images = [await seen(await get(turn.ask!.images[0])), ""];
      images[1] = await seen(await get(turn.ask!.images[1]));
      assertEquals(images[0]!.slice(1), images[1]!.slice(1));
      const side = i % 3 === 0 ? "left" : "right";
      expected.push(images[side === "left" ? 0 : 1]!);
      const { ahead } = turn;
      turn = await vote(turn, side);
      assertEquals(turn.ask?.images ?? [], ahead);
    }
    assertEquals([turn.ask, turn.answered], [null, 12]);
    const cast = votes.of(study);
    assertEquals(
      cast.map(({ choice, item }) => `${choice}${item.replace("hidden-item-", "")}`),
      expected,
    );
    assertEquals(new Set(cast.map(({ item, question }) => `${item} ${question}`)).size, 12);
    cast.forEach(({ choice, left, annotator, milliseconds }, i) => {
      assertEquals([annotator, milliseconds], ["anna", 10]);
      assertEquals(left === choice, i % 3 === 0);
    });
  }));

Deno.test("the prompt is shown with the questions that want it, and the appeal comes before", () =>
  withStudy(async ({ next, vote }) => {
    const shown = new Map<string, string[]>();
    let turn = await next("anna");
    let hidden = 0;
    while (turn.ask) {
      const { prompt, question } = turn.ask;
      if (prompt === null) {
        assertEquals(question, "Which image is more visually appealing?");
        hidden++;
      } else shown.set(prompt, [...shown.get(prompt) ?? [], question]);
      turn = await vote(turn, "left");
    }
    assertEquals([hidden, shown.size], [4, 3]);
    assertEquals(shown.get("a small red circle")!.length, 4);
  }));

Deno.test("a restarted server goes on where the person was, with the same images", () =>
  withStudy(async ({ get, next, vote, restart }) => {
    let turn = await next("anna");
    for (let i = 0; i < 5; i++) turn = await vote(turn, "left");
    const pictures = async () =>
      await Promise.all(turn.ask!.images.map(async (a) => seen(await get(a))));
    const before = await pictures();
    await restart();
    assertEquals(await next("anna"), turn);
    assertEquals(await pictures(), before);
    // Somebody else starts at their own beginning.
    assertEquals((await next("ben")).answered, 0);
  }));

Deno.test("going back changes a vote, and a vote sent twice counts once", () =>
  withStudy(async ({ next, vote, votes }) => {
    const first = await next("anna");
    const second = await vote(first, "left");
    assertEquals(await vote(first, "left"), second);
    assertEquals(votes.count(), 1);
    const again = await next("anna", 0);
    assertEquals([again.ask!.chosen, again.answered], ["left", 1]);
    assertEquals(again.ask!.images, first.ask!.images);
    const [before] = votes.of(first.study);
    assertEquals(await vote(again, "right"), second);
    const [after] = votes.of(first.study);
    assertEquals(votes.count(), 1);
    assert(before!.choice !== after!.choice);
    assertEquals((await next("anna", 0)).ask!.chosen, "right");
  }));

Deno.test("nothing that is served names a model, an item, a comparison or a file", () =>
  withStudy(async ({ get, next, vote, post }) => {
    const responses = await Promise.all(
      ["/", "/page.css", "/page.js", "/api/next?annotator=anna", "/nowhere", "/image/99/left"].map(
        get,
      ),
    );
    let turn = await next("anna");
    const sizes: number[] = [];
    while (turn.ask) {
      const { study, annotator, ask: { at, images } } = turn;
      responses.push(await get(`/api/next?annotator=anna&at=${at}`));
      responses.push(await post({ study, annotator, at, side: "up", milliseconds: 1 }));
      for (const address of images) responses.push(await get(address));
      turn = await vote(turn, "left");
    }
    for (const response of responses) {
      const bytes = new Uint8Array(await response.clone().arrayBuffer());
      const all = [...response.headers].join("\n") + new TextDecoder("latin1").decode(bytes);
      for (const secret of secrets) assert(!all.includes(secret), `${secret} in ${all}`);
      if (response.headers.get("content-type") === "image/png") {
        sizes.push(bytes.length);
        // No metadata in which something could be written.
        assert(!/tEXt|iTXt|zTXt|eXIf|tIME/.test(all));
      }
    }
    assertEquals(sizes.length, 24);
    // What a browser is told of a turn, so that nothing is added without a thought of blindness.
    assertEquals(Object.keys(turn).sort(), [
      "ahead",
      "annotator",
      "answered",
      "ask",
      "study",
      "total",
    ]);
  }));

Deno.test("a page loads nothing from elsewhere and is embedded nowhere", () =>
  withStudy(async ({ get }) => {
    for (const path of ["/", "/page.css", "/page.js"]) {
      const response = await get(path);
      assertEquals(response.status, 200);
      assertStringIncludes(response.headers.get("content-security-policy")!, "default-src 'none'");
      assertEquals(response.headers.get("x-content-type-options"), "nosniff");
      const text = await response.text();
      assert(!/https?:\/\//.test(text), path);
      assert(!/innerHTML|insertAdjacentHTML|document\.write/.test(text), path);
    }
  }));

Deno.test("a wrong request is refused in words and stores nothing", () =>
  withStudy(async ({ get, post, next, votes }) => {
    const { study } = await next("anna");
    const good = { study, annotator: "anna", at: 0, side: "left", milliseconds: 5 };
    const refused = async (response: Response, status: number, words: string) => {
      assertEquals(response.status, status);
      assertStringIncludes((await response.json()).error, words);
    };
    await refused(await post({ ...good, annotator: undefined }), 400, "your name, is missing");
    await refused(await post({ ...good, annotator: " " }), 400, "it is empty");
    await refused(await post({ ...good, annotator: "x".repeat(61) }), 400, "60 characters");
    await refused(await post({ ...good, at: 12 }), 400, "no question 12; they are 0 to 11");
    for (const at of [-1, 0.5, "0", "length", null, undefined]) {
      await refused(await post({ ...good, at }), 400, "there is no question");
    }
    await refused(await post({ ...good, at: 1 }), 409, "question 1 is not due: the next is 0");
    await refused(await post({ ...good, side: "a" }), 400, 'expected "left" or "right"');
    await refused(await post({ ...good, study: "another" }), 409, "load the page again");
    for (const milliseconds of [-1, 1.5, "5", null, 1e15]) {
      await refused(await post({ ...good, milliseconds }), 400, "expected a whole number from 0");
    }
    await refused(await post("{"), 400, "not JSON");
    await refused(await post("[1]"), 400, "a JSON object");
    await refused(await post("null"), 400, "a JSON object");
    await refused(await post({ ...good, more: "x".repeat(5000) }), 413, "at most 4096 bytes");
    await refused(await post(good, "text/plain"), 415, "found text/plain");
    await refused(await get("/api/vote"), 405, "takes POST, not GET");
    await refused(await get("/api/next"), 400, "your name, is missing");
    await refused(await get("/api/next?annotator=anna&at=3"), 409, "not due");
    await refused(await get("/api/next?annotator=anna&at=x"), 400, "there is no question");
    await refused(await get(`/image/12/left?annotator=a&study=${study}`), 400, "no question 12");
    await refused(await get("/image/0/left?annotator=anna"), 409, "another study");
    for (const path of ["/study.json", "/../deno.json", "/image/0/up", "/constructor"]) {
      await refused(await get(path), 404, "there is nothing at");
    }
    assertEquals(votes.count(), 0);
  }));

Deno.test("a vote that cannot be written is the server's fault, which the page waits out", async () => {
  const folder = await makeTinyStudy();
  const votes = new VoteStore(`${folder}/votes.sqlite`);
  const study = await readStudy(folder);
  const handler = await studyHandler(study, votes);
  votes[Symbol.dispose]();
  const { error } = console;
  console.error = () => {};
  const response = await handler(new Request("http://localhost/api/next?annotator=anna"));
  console.error = error;
  assertEquals(response.status, 500);
  assertEquals(await response.json(), { error: "the server failed; its window says why" });
  await Deno.remove(folder, { recursive: true });
});

Deno.test("the server listens on this machine, says when a port is taken, and ends on a signal", async () => {
  const folder = await makeTinyStudy();
  {
    using votes = new VoteStore(`${folder}/votes.sqlite`);
    const study = await readStudy(folder);
    const stop = new AbortController();
    const server = await serveStudy({ study, votes, signal: stop.signal });
    const origin = `http://127.0.0.1:${server.port}`;
    const page = await fetch(origin);
    assertStringIncludes(await page.text(), "Which image is better?");
    const cast = await fetch(`${origin}/api/vote`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        study: study.digest,
        annotator: "anna",
        at: 0,
        side: "left",
        milliseconds: 1,
      }),
    });
    assertEquals((await cast.json()).answered, 1);
    assertEquals(votes.count(), 1);
    await assertRejects(
      () => serveStudy({ study, votes, port: server.port }),
      Error,
      "is taken by another program",
    );
    stop.abort();
    await server.finished;
    await assertRejects(() => fetch(origin));
    // A signal that came before the server did.
    await (await serveStudy({ study, votes, signal: stop.signal })).finished;
  }
  await Deno.remove(folder, { recursive: true });
});
