import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  allCaptions,
  captionText,
  grammarWords,
  parseCaption,
  sampleCaption,
} from "../../lib/nano/caption.ts";
import { generator } from "../../lib/tensor/random.ts";

Deno.test("a caption says what its structure says, and back", () => {
  const text = "a small red circle left of a large blue cross on a teal background";
  const caption = parseCaption(text);
  assertEquals(caption, {
    first: { size: "small", colour: "red", shape: "circle" },
    second: {
      relation: "left of",
      object: { size: "large", colour: "blue", shape: "cross" },
    },
    background: "teal",
  });
  assertEquals(captionText(caption), text);
  for (const caption of [...allCaptions(1), ...allCaptions(2)]) {
    const text = captionText(caption);
    assert(text.split(" ").length <= 14);
    assertEquals(captionText(parseCaption(text)), text);
  }
  assertEquals([allCaptions(1).length, allCaptions(2).length], [144, 23040]);
});

Deno.test("a sentence outside the grammar is refused with the grammar", () => {
  assertThrows(() => parseCaption("a photo of a cat"), SyntaxError, "{small|large}");
  assertThrows(
    () => parseCaption("a small red circle above a large red cross on a teal background"),
    SyntaxError,
    "both are red",
  );
});

Deno.test("sampled captions: 60% have two objects, never of one colour", () => {
  const random = generator({ seed: 1, stream: 0, step: 0 });
  const captions = Array.from({ length: 2000 }, () => sampleCaption(random));
  const share = captions.filter(({ second }) => second).length / captions.length;
  assert(Math.abs(share - 0.6) < 0.04, `share ${share}`);
  assert(captions.every(({ first, second }) => first.colour !== second?.object.colour));
  const words = new Set(captions.flatMap((caption) => captionText(caption).split(" ")));
  assertEquals([...words].sort(), grammarWords().sort());
});
