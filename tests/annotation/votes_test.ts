/** Votes on disk: cast, changed, kept through a kill, and refused files. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { type CastVote, VoteStore } from "../../lib/annotation/votes.ts";

const vote: CastVote = {
  annotator: "anna",
  item: "item 1",
  question: "general",
  choice: "a",
  left: "b",
  milliseconds: 1200,
  time: "2026-01-01T10:00:00.000Z",
};

async function inFolder(body: (folder: string) => Promise<void> | void): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("votes are kept by study, person, item and question", () =>
  inFolder((folder) => {
    const path = `${folder}/votes.sqlite`;
    const others: CastVote[] = [
      { ...vote, annotator: "ben", time: "2026-01-02T10:00:00.000Z" },
      { ...vote, item: "item 2" },
      { ...vote, question: "appeal", time: "2026-01-03T10:00:00.000Z" },
    ];
    {
      using store = new VoteStore(path);
      for (const each of [vote, ...others]) store.cast("study", each);
      store.cast("another study", vote);
    }
    using store = new VoteStore(path);
    assertEquals(store.of("study"), [vote, ...others]);
    assertEquals(store.of("study", "ben"), [others[0]!]);
    assertEquals(store.of("unknown"), []);
    assertEquals(store.count(), 5);
    assertEquals(store.progress("study"), [
      { annotator: "anna", votes: 3, lastVote: "2026-01-03T10:00:00.000Z" },
      { annotator: "ben", votes: 1, lastVote: "2026-01-02T10:00:00.000Z" },
    ]);
  }));

Deno.test("a vote cast again replaces the first", () =>
  inFolder((folder) => {
    using store = new VoteStore(`${folder}/votes.sqlite`);
    store.cast("study", vote);
    store.cast("study", vote);
    const changed: CastVote = { ...vote, choice: "b", left: "a", milliseconds: 7, time: "later" };
    store.cast("study", changed);
    assertEquals(store.of("study"), [changed]);
  }));

Deno.test("a vote that cannot be stored leaves the earlier one", () =>
  inFolder((folder) => {
    using store = new VoteStore(`${folder}/votes.sqlite`);
    store.cast("study", vote);
    assertThrows(() => store.cast("study", { ...vote, choice: "c" as "a" }), Error, "CHECK");
    assertThrows(() => store.cast("study", { ...vote, milliseconds: -1 }), Error, "CHECK");
    assertEquals(store.of("study"), [vote]);
  }));

Deno.test("two programs share a file", () =>
  inFolder((folder) => {
    using one = new VoteStore(`${folder}/votes.sqlite`);
    using other = new VoteStore(`${folder}/votes.sqlite`);
    one.cast("study", vote);
    other.cast("study", { ...vote, annotator: "ben" });
    assertEquals(one.of("study"), other.of("study"));
    assertEquals(one.count(), 2);
  }));

Deno.test("a kill loses no vote that was cast", () =>
  inFolder(async (folder) => {
    const path = `${folder}/votes.sqlite`;
    const module = new URL("../../lib/annotation/votes.ts", import.meta.url).href;
    const program = `
      import { VoteStore } from ${JSON.stringify(module)};
      const store = new VoteStore(${JSON.stringify(path)});
      for (let i = 0;; i++) {
        store.cast("study", { ...${JSON.stringify(vote)}, item: "item " + i });
        Deno.stdout.writeSync(new TextEncoder().encode(i + "\\n"));
      }`;
    await Deno.writeTextFile(`${folder}/cast.ts`, program);
    const child = new Deno.Command("deno", {
      args: ["run", "--no-prompt", "--allow-read", "--allow-write", `${folder}/cast.ts`],
      stdout: "piped",
    }).spawn();
    let printed = "";
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
      printed += chunk;
      if (printed.split("\n").length > 25) {
        child.kill("SIGKILL");
        break;
      }
    }
    await child.status;
    const last = Number(printed.trimEnd().split("\n").at(-1));
    using store = new VoteStore(path);
    const items = store.of("study").map(({ item }) => item);
    assert(last >= 24, printed);
    // The one after the last printed may have been cast too.
    assert(items.length >= last + 1, `${items.length} of ${last + 1} votes are there`);
    assertEquals(items, items.map((_, i) => `item ${i}`));
  }));

Deno.test("votes are read without writing, and a missing file stays missing", () =>
  inFolder((folder) => {
    const path = `${folder}/votes.sqlite`;
    assertThrows(() => new VoteStore(path, { readOnly: true }), Error, "cannot be opened");
    assertThrows(() => Deno.statSync(path), Deno.errors.NotFound);
    {
      using store = new VoteStore(path);
      store.cast("study", vote);
    }
    using store = new VoteStore(path, { readOnly: true });
    assertEquals(store.of("study"), [vote]);
    assertThrows(() => store.cast("study", vote), Error, "readonly");
  }));

Deno.test("a file that holds something else is refused and left alone", () =>
  inFolder(async (folder) => {
    const words = `${folder}/words.txt`;
    await Deno.writeTextFile(words, "no database, but long enough to be looked at ".repeat(40));
    assertThrows(() => new VoteStore(words), Error, "words.txt is not a SQLite database: name");

    const other = `${folder}/other.sqlite`;
    const database = new DatabaseSync(other);
    database.exec("CREATE TABLE songs (name TEXT)");
    database.close();
    const before = await Deno.readFile(other);
    assertThrows(() => new VoteStore(other), Error, "a database of something else than votes");
    assertEquals(await Deno.readFile(other), before);

    const newer = `${folder}/newer.sqlite`;
    new VoteStore(newer)[Symbol.dispose]();
    const raised = new DatabaseSync(newer);
    raised.exec("PRAGMA user_version = 9");
    raised.close();
    assertThrows(() => new VoteStore(newer), Error, "layout 9, but this version");

    assertThrows(() => new VoteStore(`${folder}/none/votes.sqlite`), Error, "cannot be opened");
    assertThrows(() => new VoteStore(folder), Error, "cannot be opened");
  }));
