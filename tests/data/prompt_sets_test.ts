import { assert, assertEquals, assertRejects } from "@std/assert";
import { writePreferences } from "../../lib/data/preferences.ts";
import { type PromptSet, readPromptSet } from "../../lib/data/prompt_sets.ts";
import { choiceRow } from "../../lib/data/schema.ts";
import { openMaterials } from "../../lib/experiments/materials.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

async function write(name: string, content: string | Uint8Array): Promise<string> {
  const path = `${folder}/${name}`;
  await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  await Deno.writeFile(
    path,
    typeof content === "string" ? new TextEncoder().encode(content) : content,
  );
  return path;
}

/** Choices between two images for each of the captions. */
async function writeChoices(name: string, captions: readonly string[]): Promise<string> {
  const path = `${folder}/${name}`;
  await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  const image = (uid: string) => ({ uid, bytes: Uint8Array.of(1), model: "none" });
  await writePreferences(
    path,
    captions.map((caption, i) =>
      choiceRow(
        { caption, images: [image(`${i}a`), image(`${i}b`)], label0: 1, time: new Date(i) },
        i,
      )
    ),
  );
  return path;
}

const formats: [name: string, content: string, set: PromptSet][] = [
  ["lines.txt", "\ufeffa cat\r\n\n  a dog \nein schöner Baum", {
    prompts: ["a cat", "a dog", "ein schöner Baum"],
  }],
  ["no_ending", "a cat", { prompts: ["a cat"] }],
  [
    "PartiPrompts.tsv",
    "Prompt\tCategory\tChallenge\tNote\n" +
    "bond\tAbstract\tBasic\tmany meanings\n" +
    'A robot. The words "Fly an airplane" are on the wall.\tOutdoor Scenes\tComplex\t\n' +
    " 300, 101\tAbstract\tBasic\t\n\n" +
    '"two\nlines\tand ""quotes"""\tArts\tBasic\t\n',
    {
      prompts: [
        "bond",
        'A robot. The words "Fly an airplane" are on the wall.',
        "300, 101",
        'two\nlines\tand "quotes"',
      ],
      categories: ["Abstract", "Outdoor Scenes", "Abstract", "Arts"],
    },
  ],
  ["captions.csv", '\ufeffid,Caption\r\n1,"a cat, a dog"\r\n2,a fox\r\n', {
    prompts: ["a cat, a dog", "a fox"],
  }],
  ["photo.json", '["a cat ", "a \\"red\\" dog"]', { prompts: ["a cat", 'a "red" dog'] }],
];

for (const [name, content, set] of formats) {
  Deno.test(`prompt sets: ${name}`, async () => {
    assertEquals(await readPromptSet(await write(name, content)), set);
  });
}

Deno.test("prompt sets: a folder of HPDv2's lists has the styles for categories", async () => {
  await write("hpd/photo.json", '["a cat", "a dog"]');
  await write("hpd/anime.json", '["a fox"]');
  await write("hpd/README.md", "benchmark");
  assertEquals(await readPromptSet(`${folder}/hpd`), {
    prompts: ["a fox", "a cat", "a dog"],
    categories: ["anime", "photo", "photo"],
  });
});

Deno.test("prompt sets: Pick-a-Pic's captions count once, in the order of their rows", async () => {
  const first = await writeChoices("pick/0.parquet", ["a fox", "a cat", "a fox", "a\ncow"]);
  assertEquals(await readPromptSet(first), { prompts: ["a fox", "a cat", "a\ncow"] });
  await writeChoices("pick/1.parquet", ["a cat", "an owl"]);
  assertEquals((await readPromptSet(`${folder}/pick`)).prompts, [
    "a fox",
    "a cat",
    "a\ncow",
    "an owl",
  ]);
});

Deno.test("prompt sets: reproduce takes them, every fifth to choose by", async () => {
  const prompts = Array.from({ length: 12 }, (_, i) => `prompt ${i}`);
  const path = await write("own.json", JSON.stringify([...prompts, prompts[0]]));
  const found = (await openMaterials({ prompts: path })).prompts;
  assertEquals(found.validation, ["prompt 0", "prompt 5", "prompt 10"]);
  assertEquals(found.test.length, 9);
});

Deno.test("prompt sets: what is wrong with a file is told, with the line or entry", async () => {
  const cases: [name: string, content: string | Uint8Array, message: string][] = [
    ["empty.txt", "\n \n", "empty.txt has no prompt"],
    ["latin.txt", Uint8Array.of(0x63, 0xe4, 0x66), "latin.txt is not a text in UTF-8"],
    ["empty.tsv", "", 'has no column "Prompt" or "caption" in its first line'],
    ["headless.tsv", "a cat\tAnimals\n", 'first line; it has "a cat", "Animals"'],
    ["header_only.tsv", "Prompt\tCategory\n", "header_only.tsv has no prompt"],
    [
      "gap.tsv",
      "Prompt\tCategory\na cat\tAnimals\n \tArts\n",
      'line 3 has nothing in the column "Prompt"',
    ],
    ["ragged.tsv", "Prompt\tCategory\na cat\tAnimals\na dog\n", "on line 3"],
    ["open.tsv", 'Prompt\tCategory\n"a cat\tAnimals\na dog\tAnimals\n', "Quote Not Closed"],
    ["cut.json", '["a cat", ', "cut.json is not JSON"],
    ["object.json", '{"prompts": []}', "object.json is no JSON list of prompts"],
    ["null.json", "null", "null.json is no JSON list of prompts"],
    ["mixed.json", '["a cat", 3]', "entry 2 is 3; expected a prompt"],
    ["blank.json", '[" "]', 'entry 1 is " "; expected a prompt'],
    ["none.json", "[]", "none.json has no prompt"],
    ["not.parquet", "PAR1 but no more", "not.parquet"],
  ];
  for (const [name, content, message] of cases) {
    const path = await write(name, content);
    const error = await assertRejects(() => readPromptSet(path), Error, message);
    assert(error.message.includes(path), error.message);
    assert(error.message.length < 500, error.message);
  }
  await assertRejects(
    () => readPromptSet("/nowhere/at.all"),
    Deno.errors.NotFound,
    "no such file or folder: /nowhere/at.all",
  );
  await write("bare/notes.txt", "a cat");
  await assertRejects(
    () => readPromptSet(`${folder}/bare`),
    Error,
    "holds neither JSON lists of prompts nor Parquet files",
  );
});

Deno.test("prompt sets: a quote that nothing closes does not take the rest of a large file", async () => {
  const path = await write("huge.csv", `caption\n"${"a cat ".repeat(400_000)}\n`);
  const error = await assertRejects(() => readPromptSet(path), Error, "huge.csv");
  assert(error.message.length < 500, error.message.slice(0, 1000));
});
