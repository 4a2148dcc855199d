/** Every notebook in a real Jupyter: its types, its cells, and that it shows what it should. */
import { assertEquals } from "@std/assert";
import { findJupyter } from "../../lib/jupyter/mod.ts";

/** The longer ones only show here that everything runs; the others compute what they say. */
const smoke = ["01", "02", "04", "05", "06"];

const names = [...Deno.readDirSync("notebooks")].map(({ name }) => name)
  .filter((name) => name.endsWith(".ipynb")).sort();
const jupyter = await findJupyter("server").catch(() => undefined);

Deno.test("there is a notebook for each number", () => {
  assertEquals(names.map((name) => name.slice(0, 2)), [
    ...["00", "01", "02", "03", "04", "05", "06", "07", "08"],
  ]);
});

for (const name of names) {
  const preset = smoke.includes(name.slice(0, 2)) ? "smoke" : "quick";
  Deno.test({
    name: `${name} runs to its end in Jupyter, ${preset}${
      jupyter ? "" : " (ignored: no jupyter on PATH)"
    }`,
    ignore: jupyter === undefined,
    async fn() {
      const { code, stdout, stderr } = await new Deno.Command("deno", {
        args: ["task", "notebooks", `notebooks/${name}`, "--preset", preset],
      }).output();
      const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
      assertEquals(code, 0, text(stdout) + text(stderr));
    },
  });
}
