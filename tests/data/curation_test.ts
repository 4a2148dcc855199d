import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  absoluteWinners,
  chainSets,
  type CurationOptions,
  describePairs,
  filteredPairs,
  fullPairs,
  mixedPairs,
  type PreferencePairs,
} from "../../lib/data/curation.ts";
import { type Comparisons, comparisonsOf } from "../../lib/data/comparisons.ts";

/** Choices written as "a>b" or "a=b", one a minute; the caption is before the colon. */
function choices(...lines: string[]): Comparisons {
  return comparisonsOf(lines.map((line, minute) => {
    const [, caption, left, sign, right] = /^(\w+): (\w)([>=<])(\w)$/.exec(line)!;
    return {
      caption: caption!,
      image_0_uid: left!,
      image_1_uid: right!,
      label_0: sign === ">" ? 1 : sign === "<" ? 0 : 0.5,
      created_at: new Date(minute * 60_000),
    };
  }));
}

function text(comparisons: Comparisons, pairs: PreferencePairs): string {
  const { images } = comparisons;
  return Array.from(pairs.winner, (image, i) => `${images[image]}>${images[pairs.loser[i]!]}`)
    .join(" ");
}

// a beats b, then c; b beat d before. e only ties; f ties and wins twice; g wins and loses.
const SESSION = choices(
  "p: a>b",
  "p: c<a",
  "p: b>d",
  "p: e=f",
  "p: f>g",
  "p: g>h",
  "p: h<f",
  "q: k>m",
  "q: m>n",
  "q: m>o",
);

Deno.test("full pairs: all decided choices", () => {
  assertEquals(text(SESSION, fullPairs(SESSION)), "a>b a>c b>d f>g g>h f>h k>m m>n m>o");
});

Deno.test("absolute winners by each reading", () => {
  const winners = (reading: "code" | "prose" | "strict") =>
    SESSION.images.filter((_, i) => absoluteWinners(SESSION, reading)[i]).join("");
  assertEquals(winners("code"), "ak");
  assertEquals(winners("prose"), "af");
  assertEquals(winners("strict"), "a");
});

Deno.test("filtered pairs by each reading and opponent", () => {
  const pairs = (options: CurationOptions) => text(SESSION, filteredPairs(SESSION, options));
  assertEquals(pairs({}), "a>b k>m");
  assertEquals(pairs({ opponent: "latest" }), "a>c k>m");
  assertEquals(pairs({ opponent: "every" }), "a>b a>c k>m");
  assertEquals(pairs({ reading: "prose" }), "a>b f>g");
  assertEquals(pairs({ reading: "prose", opponent: "latest" }), "a>c f>h");
  assertEquals(pairs({ reading: "strict", opponent: "every" }), "a>b a>c");
});

Deno.test("mixed pairs: as many as filtered, the share of contradictory winners as asked", () => {
  const winners = ["m", "f", "g", "b"];
  for (const [share, contradictory] of [[0, 0], [1 / 3, 1], [1, 3]] as const) {
    const mixed = mixedPairs(SESSION, share, 1);
    assertEquals(mixed.winner.length, 3);
    const names = text(SESSION, mixed).split(" ");
    assertEquals(names.filter((pair) => winners.includes(pair[0]!)).length, contradictory);
    assertEquals(new Set(names).size, names.length);
  }
  assertEquals(mixedPairs(SESSION, 0.5, 1), mixedPairs(SESSION, 0.5, 1));
  const few = choices("p: a>b", "p: a>c");
  assertThrows(() => mixedPairs(few, 1, 1), RangeError, "take a smaller share");
});

Deno.test("the latest choice is the one with the latest time, not the last row", () => {
  const comparisons = comparisonsOf([
    { caption: "p", image_0_uid: "a", image_1_uid: "b", label_0: 1, created_at: new Date(2000) },
    { caption: "p", image_0_uid: "a", image_1_uid: "c", label_0: 1, created_at: new Date(1000) },
  ]);
  assertEquals(text(comparisons, filteredPairs(comparisons, { opponent: "latest" })), "a>b");
});

Deno.test("chains x > y > z", () => {
  const latest = chainSets(SESSION);
  assertEquals(text(SESSION, latest.xy), "a>c k>m");
  assertEquals(text(SESSION, latest.xyXz), "a>c k>m k>o");
  assertEquals(text(SESSION, latest.xyYz), "a>c k>m m>o");
  const first = chainSets(SESSION, { opponent: "first" });
  assertEquals(text(SESSION, first.xyXz), "a>b k>m a>d k>n");
  assertEquals(text(SESSION, first.xyYz), "a>b k>m b>d m>n");
});

Deno.test("an image shown for two captions is judged within each", () => {
  const comparisons = choices("p: a>b", "q: b>a");
  assertEquals(text(comparisons, filteredPairs(comparisons)), "a>b b>a");
  assertEquals(comparisons.images.length, 4);
  assertEquals(describePairs(comparisons, filteredPairs(comparisons)), {
    pairs: 2,
    captions: 2,
    images: 4,
  });
});

Deno.test("no choices, no pairs", () => {
  const none = comparisonsOf([]);
  assertEquals(filteredPairs(none).winner.length, 0);
  assertEquals(chainSets(none).xyXz.winner.length, 0);
});

Deno.test("a million rows take linear time", () => {
  const rows = 1_000_000, perCaption = 16;
  const captions = Math.ceil(rows / perCaption);
  const pick = (row: number, salt: number) =>
    Math.floor(row / perCaption) * 10 + (Math.imul(row + salt, 0x9E3779B1) >>> 16) % 10;
  const comparisons: Comparisons = {
    captions: Array(captions).fill(""),
    images: Array(captions * 10).fill(""),
    imageCaption: Int32Array.from({ length: captions * 10 }, (_, image) => Math.floor(image / 10)),
    image0: Int32Array.from({ length: rows }, (_, row) => pick(row, 0)),
    image1: Int32Array.from({ length: rows }, (_, row) => pick(row, 77)),
    label0: Float32Array.from({ length: rows }, (_, row) => [1, 0, 0.5, 1, 0, 1, 0][row % 7]!),
    createdAt: Float64Array.from({ length: rows }, (_, row) => row),
  };
  const start = performance.now();
  chainSets(comparisons);
  assert(performance.now() - start < 3000);
});
