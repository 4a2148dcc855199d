/**
 * `deno task curate`: what pairs a preference dataset gives under each reading of the paper's rules, beside
 * the paper's numbers, and the pairs of one of them as a file.
 *
 * @module
 */
import * as arrow from "apache-arrow";
import * as parquet from "parquet-wasm";
import {
  type CurationOptions,
  describePairs,
  faultLines,
  filteredPairs,
  fullPairs,
  type Opponent,
  type PreferencePairs,
  readComparisons,
  type Reading,
  type StoredComparisons,
} from "../data/mod.ts";
import { quote, type Table } from "../experiments/report.ts";
import { writeWhole } from "../experiments/run.ts";
import { type Selection, selections } from "../experiments/training_pairs.ts";
import { progressOf } from "../notebook/progress.ts";
import { tableBundle } from "../notebook/table.ts";
import { choice, text } from "./options.ts";
import { runCommand } from "./run_command.ts";
import { UserError } from "./user_error.ts";

const readings = ["code", "prose", "strict"] as const satisfies readonly Reading[];
const opponents = ["first", "latest", "every"] as const satisfies readonly Opponent[];
const chains = ["xy", "xy-xz", "xy-yz"] as const satisfies readonly Selection[];

/** Pairs and captions that the paper counts in Pick-a-Pic v2's training split. */
const PAPER = {
  full: { pairs: 851_293, captions: 58_960 },
  filtered: { pairs: 87_687, captions: 53_701 },
} as const;

const command = {
  name: "curate",
  summary: "Count the pairs of a preference dataset under each reading of the paper's rules, " +
    "and write those of one. Images are not read.",
  options: {
    data: text({
      description: "a Parquet file in Pick-a-Pic v2's schema, a folder of them, or a pattern",
      placeholder: "PATH",
      default: "data/nano/preferences.parquet",
    }),
    selection: choice(Object.keys(selections) as Selection[], {
      description: "the pairs that --output takes",
      default: "full",
    }),
    reading: choice(readings, {
      description: "what makes an absolute winner: code (a win, no loss, no tie), " +
        "prose (two wins, no loss), strict (two wins, no loss, no tie); code unless given",
    }),
    opponent: choice(opponents, {
      description:
        "the loser among the images that an absolute winner beat; by default every one " +
        "for filtered, the latest for xy, xy-xz and xy-yz",
    }),
    output: text({
      description: "file for the pairs: caption, winner's and loser's uid, file and row",
      placeholder: "FILE.csv|FILE.parquet",
    }),
  },
  examples: [
    'deno task curate --data "data/pickapic/train-*.parquet"',
    "deno task curate --data pickapic --selection filtered --opponent first --output pairs.csv",
  ],
};

/**
 * How many pairs there are, on how many captions and of how many images.
 *
 * @param options The readings that the sets of Table 2 take; the others are counted under all.
 */
export function curationTable(comparisons: StoredComparisons, options: CurationOptions): Table {
  const row = (
    name: string,
    pairs: PreferencePairs,
    paper?: { readonly pairs: number; readonly captions: number },
  ) => {
    const found = describePairs(comparisons, pairs);
    return [
      ...[name, found.pairs, found.captions, found.images],
      ...[paper?.pairs ?? null, paper?.captions ?? null],
    ];
  };
  const { reading = "code", opponent = "latest" } = options;
  const of = opponent === "every" ? "latest" : opponent;
  return {
    columns: [
      { heading: "", name: "pairs of" },
      { heading: "pairs", name: "pairs", decimals: 0 },
      { heading: "captions", name: "captions", decimals: 0 },
      { heading: "images", name: "images", decimals: 0 },
      { heading: "paper: pairs", name: "paper_pairs", decimals: 0 },
      { heading: "captions", name: "paper_captions", decimals: 0 },
    ],
    rows: [
      row("decided choices", fullPairs(comparisons), PAPER.full),
      ...readings.flatMap((reading) =>
        opponents.map((opponent) =>
          row(
            `absolute winners (${reading}), ${opponent} loser`,
            filteredPairs(comparisons, { reading, opponent }),
            PAPER.filtered,
          )
        )
      ),
      ...chains.map((name) =>
        row(
          `Table 2's ${name} (${reading}, ${of})`,
          selections[name](comparisons, { reading, opponent: of }),
        )
      ),
    ],
  };
}

/** The chosen pairs, a row each; of a pair that nobody was asked about file and row are not known. */
function pairRows(comparisons: StoredComparisons, { winner, loser, choice }: PreferencePairs) {
  const { captions, images, imageCaption, files, row } = comparisons;
  const starts = files.map(({ firstRow }) => firstRow);
  return Array.from(winner, (image, i) => {
    const at = choice[i]! < 0 ? undefined : row[choice[i]!]!;
    const file = at === undefined ? undefined : starts.findLastIndex((start) => start <= at);
    return {
      caption: captions[imageCaption[image]!]!,
      winner_uid: images[image]!,
      loser_uid: images[loser[i]!]!,
      file: file === undefined ? null : files[file]!.path,
      row: file === undefined ? null : at! - starts[file]!,
    };
  });
}

type PairRow = ReturnType<typeof pairRows>[number];

const columns = ["caption", "winner_uid", "loser_uid", "file", "row"] as const;

function csvOf(rows: readonly PairRow[]): string {
  const line = (row: PairRow) => columns.map((column) => quote(String(row[column] ?? ""))).join();
  return [columns.join(), ...rows.map(line)].join("\r\n") + "\r\n";
}

function parquetOf(rows: readonly PairRow[]): Uint8Array {
  const vectors = columns.map((column) => [
    column,
    arrow.vectorFromArray(
      rows.map((row) => row[column]),
      column === "row" ? new arrow.Int32() : new arrow.Utf8(),
    ),
  ]);
  const table = new arrow.Table(Object.fromEntries(vectors));
  const properties = new parquet.WriterPropertiesBuilder()
    .setCompression(parquet.Compression.ZSTD).build();
  return parquet.writeParquet(
    parquet.Table.fromIPCStream(arrow.tableToIPC(table, "stream")),
    properties,
  );
}

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const { data, selection, reading, opponent, output } = options;
    const format = /\.(csv|parquet)$/.exec(output ?? ".csv")?.[1];
    if (!format) throw new UserError(`--output ${output} must end in .csv or .parquet`);
    const curation = { ...reading && { reading }, ...opponent && { opponent } };
    const comparisons = await readComparisons(data, progressOf("read", "rows"));
    const { rowCount, unlabelled, label0, captions, faults, files } = comparisons;
    const ties = label0.reduce((sum, label) => sum + (label === 0.5 ? 1 : 0), 0);
    const number = (value: number) => value.toLocaleString("en");
    console.log(
      `${number(rowCount)} rows in ${number(files.length)} files: ${
        number(unlabelled)
      } without a ` +
        `label, ${number(rowCount - unlabelled - label0.length)} that cannot be used, ` +
        `${number(ties)} ties, ${number(label0.length - ties)} decided; ` +
        `${number(captions.length)} captions`,
    );
    for (const line of faultLines(faults)) console.log(line);
    console.log(`\n${tableBundle(curationTable(comparisons, curation))["text/plain"]}`);
    if (!output) return;
    const pairs = pairRows(comparisons, selections[selection](comparisons, curation));
    await writeWhole(output, format === "csv" ? csvOf(pairs) : parquetOf(pairs));
    console.log(`\n${number(pairs.length)} pairs (${selection}) in ${output}`);
  });
}
