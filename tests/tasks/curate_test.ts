/** `deno task curate` on choices of Pick-a-Pic's kind, against counts made by the plainest means. */
import * as arrow from "apache-arrow";
import * as parquet from "parquet-wasm";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { readComparisons } from "../../lib/data/comparisons.ts";
import { writePreferences } from "../../lib/data/preferences.ts";
import type { PreferenceRow } from "../../lib/data/schema.ts";
import { curationTable } from "../../lib/tasks/curate.ts";
import { inFolder } from "../data/rows.ts";
import { syntheticRows } from "../data/synthetic.ts";

async function curate(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command("deno", {
    args: ["task", "--quiet", "curate", ...args],
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

interface Choice {
  readonly row: number;
  readonly caption: string;
  readonly winner: string;
  readonly loser: string;
}

const choiceOf = (row: PreferenceRow, i: number): Choice => ({
  row: i,
  caption: row.caption,
  winner: row.label_0 === 1 ? row.image_0_uid : row.image_1_uid,
  loser: row.label_0 === 1 ? row.image_1_uid : row.image_0_uid,
});

/** Every absolute winner's first choice, by the released program's rule, in the order of the rows. */
function firstWins(rows: readonly PreferenceRow[]): Choice[] {
  const decided = rows.flatMap((row, i) => row.label_0 === 0.5 ? [] : [choiceOf(row, i)]);
  const spoilt = new Set(decided.map(({ caption, loser }) => `${caption} ${loser}`));
  for (const { caption, label_0, image_0_uid, image_1_uid } of rows) {
    if (label_0 === 0.5) {
      for (const uid of [image_0_uid, image_1_uid]) spoilt.add(`${caption} ${uid}`);
    }
  }
  const seen = new Set<string>();
  return decided.filter(({ caption, winner }) => {
    const key = `${caption} ${winner}`;
    if (spoilt.has(key) || seen.has(key)) return false;
    return seen.add(key);
  });
}

Deno.test("the table counts pairs, captions and images under each reading", () =>
  inFolder(async (folder) => {
    const rows = [...syntheticRows(2000)];
    await writePreferences(`${folder}/x.parquet`, rows);
    const table = curationTable(await readComparisons(`${folder}/x.parquet`), {});
    assertEquals(table.rows.length, 1 + 9 + 3);
    const cells = (name: string) => table.rows.find(([first]) => first === name)!.slice(1);
    const summary = (choices: readonly Choice[]) => [
      choices.length,
      new Set(choices.map(({ caption }) => caption)).size,
      new Set(choices.flatMap(({ winner, loser }) => [winner, loser])).size,
    ];
    const decided = rows.filter(({ label_0 }) => label_0 !== 0.5).map(choiceOf);
    const first = firstWins(rows);
    assertEquals(cells("decided choices"), [...summary(decided), 851_293, 58_960]);
    assertEquals(cells("absolute winners (code), first loser"), [
      ...summary(first),
      ...[87_687, 53_701],
    ]);
    const every = cells("absolute winners (code), every loser")[0] as number;
    const strict = cells("absolute winners (strict), every loser")[0] as number;
    assert(first.length > 50 && every > first.length && strict < every);
    assertEquals(cells("Table 2's xy (code, latest)")[0], first.length);
    assertEquals(
      cells("Table 2's xy-xz (code, latest)")[0],
      cells("Table 2's xy-yz (code, latest)")[0],
    );
  }));

Deno.test("the command prints the table and writes the pairs for other programs", () =>
  inFolder(async (folder) => {
    const rows = [...syntheticRows(600)];
    rows[3] = { ...rows[3]!, label_0: 3 };
    rows[4] = { ...rows[4]!, has_label: false };
    await writePreferences(`${folder}/part-0.parquet`, rows.slice(0, 250));
    await writePreferences(`${folder}/part-1.parquet`, rows.slice(250));
    const chosen = ["--data", `${folder}/part-?.parquet`, "--selection", "filtered"];
    const output = [`${folder}/pairs.csv`, `${folder}/chosen.parquet`] as const;
    for (const path of output) {
      const { code, stdout, stderr } = await curate(
        ...[...chosen, "--opponent", "first", "--output", path],
      );
      assertEquals(code, 0, stderr);
      assertStringIncludes(stdout, "600 rows in 2 files: 1 without a label, 1 that cannot be used");
      assertStringIncludes(stdout, "1 rows with another label; the first:");
      assertStringIncludes(stdout, "851293");
      assertStringIncludes(stdout, `pairs (filtered) in ${path}`);
    }
    // Row numbers count the rows that were left out.
    const usable = rows.map((row, i) =>
      i === 3 || i === 4 ? { ...row, label_0: 0.5, caption: "" } : row
    );
    const expected = firstWins(usable).map(({ caption, winner, loser, row }) => [
      ...[caption, winner, loser],
      ...[`${folder}/part-${row < 250 ? 0 : 1}.parquet`, `${row < 250 ? row : row - 250}`],
    ]);
    const [header, ...lines] = (await Deno.readTextFile(output[0])).trimEnd().split("\r\n");
    assertEquals(header, "caption,winner_uid,loser_uid,file,row");
    assertEquals(lines.map((line) => line.split(",")), expected);
    const table = arrow.tableFromIPC(
      parquet.readParquet(await Deno.readFile(output[1])).intoIPCStream(),
    );
    assertEquals(table.schema.names, header!.split(","));
    assertEquals(
      table.toArray().map((row) => [...row].map(([, value]) => String(value))),
      expected,
    );

    const chains = await curate(
      ...[...chosen.slice(0, 2), "--selection", "xy-xz", "--output", output[0]],
    );
    assertEquals(chains.code, 0, chains.stderr);
    const last = (await Deno.readTextFile(output[0])).trimEnd().split("\r\n").at(-1)!;
    assert(last.endsWith(",,"), `a pair that nobody was asked about has no row: ${last}`);
  }));

Deno.test("what cannot be done is explained", () =>
  inFolder(async (folder) => {
    const [kind, chain, none] = await Promise.all([
      curate("--output", `${folder}/pairs.json`),
      curate("--selection", "xy", "--opponent", "every", "--output", `${folder}/pairs.csv`),
      curate("--data", `${folder}/train-*.parquet`),
    ]);
    assertEquals([kind.code, chain.code, none.code], [2, 1, 1]);
    assertStringIncludes(kind.stderr, "must end in .csv or .parquet");
    assertStringIncludes(chain.stderr, "choose the first or the latest opponent");
    assertStringIncludes(none.stderr, `No file matches the pattern ${folder}/train-*.parquet`);
    assertEquals([...Deno.readDirSync(folder)], []);
  }));
