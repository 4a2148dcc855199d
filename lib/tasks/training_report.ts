/**
 * A training on one page: what it was made with, its curves, and what the model drew on the way. The
 * page is one HTML file that needs nothing beside it, written anew at every checkpoint.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import sharp from "sharp";
import type { Images } from "../diffusion/mod.ts";
import { type Figure, figureSvg } from "../experiments/figure.ts";
import { writeWhole } from "../experiments/run.ts";
import type { StepMetrics } from "../preference/mod.ts";

/** What a page says. */
export interface TrainingReport {
  readonly title: string;
  /** What the training was made with, in the order of reading. */
  readonly settings: readonly (readonly [name: string, value: string])[];
  readonly metrics: readonly StepMetrics[];
  /** What was drawn at each step; 0 is the base model. */
  readonly samples: readonly SampledStep[];
}

/** The images of a step. */
export interface SampledStep {
  readonly step: number;
  /** Paths of PNG files, in the order of the prompts. */
  readonly files: readonly string[];
  readonly prompts: readonly string[];
}

/** Width of a picture on the page, in pixels. */
const SHOWN = 240;

const folderOf = (run: string, step: number) => `${run}/samples/${`${step}`.padStart(7, "0")}`;

/**
 * Keeps what was drawn at a step: PNG files and their prompts, in `samples/<step>` of the run.
 *
 * @param run The run's folder.
 */
export async function saveSamples(
  run: string,
  step: number,
  prompts: readonly string[],
  { data, width, height }: Images,
): Promise<void> {
  const folder = folderOf(run, step);
  await Deno.mkdir(folder, { recursive: true });
  const bytes = width * height * 3;
  for (const i of prompts.keys()) {
    const raw = { width, height, channels: 3 } as const;
    const png = await sharp(data.subarray(i * bytes, (i + 1) * bytes), { raw }).png().toBuffer();
    await writeWhole(`${folder}/${i}.png`, new Uint8Array(png));
  }
  // Last, as the sign that the images are complete.
  await writeWhole(`${folder}/prompts.json`, JSON.stringify(prompts, null, 1) + "\n");
}

/** The steps whose samples a run's folder holds, in order. */
export async function savedSamples(run: string): Promise<SampledStep[]> {
  const steps: SampledStep[] = [];
  const folders = await namesIn(`${run}/samples`);
  for (const name of folders.filter((name) => /^\d+$/.test(name)).sort()) {
    const folder = `${run}/samples/${name}`;
    if (!(await namesIn(folder)).includes("prompts.json")) continue;
    const prompts: string[] = JSON.parse(await Deno.readTextFile(`${folder}/prompts.json`));
    const files = prompts.map((_, i) => `${folder}/${i}.png`);
    steps.push({ step: Number(name), files, prompts });
  }
  return steps;
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    const names: string[] = [];
    for await (const { name } of Deno.readDir(folder)) names.push(name);
    return names;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/**
 * Writes the page.
 *
 * @param path Of the HTML file.
 */
export async function writeTrainingReport(path: string, report: TrainingReport): Promise<void> {
  const { title, settings, metrics, samples } = report;
  const curves = metrics.length > 1 ? await figureSvg(metricsFigure(metrics), 1040, 560) : "";
  const rows = settings.map(([name, value]) =>
    `<tr><th>${escape(name)}</th><td>${escape(value)}</td></tr>`
  );
  const steps = await Promise.all(samples.map(async ({ step, files, prompts }) => {
    const pictures = await Promise.all(
      files.map(async (file, i) =>
        `<figure><img src="${await thumbnail(file)}" alt="${escape(prompts[i]!)}">` +
        `<figcaption>${escape(prompts[i]!)}</figcaption></figure>`
      ),
    );
    const heading = step === 0 ? "The base model" : `After step ${step}`;
    return `<h3>${heading}</h3><div class="row">${pictures.join("")}</div>`;
  }));
  await writeWhole(
    path,
    `<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; }
th { text-align: left; font-weight: 500; padding-right: 2rem; vertical-align: top; }
svg { max-width: 100%; height: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; width: min(100%, ${SHOWN}px); }
img { width: 100%; }
figcaption { font-size: 0.8rem; color: #555; overflow-wrap: anywhere; }
</style></head><body>
<h1>${escape(title)}</h1>
<p>${escape(summaryOf(metrics))}</p>
<table>${rows.join("")}</table>
${curves && `<h2>Curves</h2>${curves}`}
${steps.length > 0 ? `<h2>Samples</h2>${steps.toReversed().join("\n")}` : ""}
</body></html>
`,
  );
}

function summaryOf(metrics: readonly StepMetrics[]): string {
  const last = metrics.at(-1);
  if (!last) return "No step has been taken yet.";
  const minutes = last.seconds / 60;
  return `${last.step} steps in ${minutes.toFixed(1)} minutes of training, ` +
    `${(last.seconds / last.step).toPrecision(3)} s each.`;
}

/** The picture as it is shown; the file keeps its size. Whole multiples keep small pictures' pixels. */
async function thumbnail(file: string): Promise<string> {
  const picture = sharp(file);
  const { width } = await picture.metadata();
  const times = Math.floor(SHOWN / width);
  const shown = times > 1
    ? picture.resize({ width: times * width, kernel: "nearest" })
    : picture.resize({ width: 2 * SHOWN, withoutEnlargement: true });
  const bytes = await shown.webp({ quality: 85 }).toBuffer();
  return `data:image/webp;base64,${Buffer.from(bytes).toString("base64")}`;
}

const escape = (text: string) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");

/** The panels, of which a method has some. */
const PANELS = [
  { title: "loss", value: ({ loss }: StepMetrics) => loss },
  { title: "pairs whose winner is preferred", value: ({ accuracy }: StepMetrics) => accuracy },
  { title: "spread of the logit", value: ({ logitStd }: StepMetrics) => logitStd },
  { title: "norm of the gradient", value: ({ gradientNorm }: StepMetrics) => gradientNorm },
] as const;

/** Every measured quantity over steps: thin as measured, thick as a running mean. */
function metricsFigure(metrics: readonly StepMetrics[]): Figure {
  const x = metrics.map(({ step }) => step);
  const panels = PANELS.flatMap(({ title, value }) => {
    const y = metrics.map(value);
    return y.every((v) => v !== undefined) ? [{ title, y }] : [];
  });
  const axes = panels.map(({ title }, i) => {
    const n = i === 0 ? "" : `${i + 1}`;
    const [left, top] = [i % 2 === 0, i < 2];
    return {
      [`xaxis${n}`]: {
        domain: left ? [0, 0.45] : [0.55, 1],
        anchor: `y${n}`,
        title: { text: "step" },
      },
      [`yaxis${n}`]: {
        domain: top ? [0.58, 1] : [0, 0.42],
        anchor: `x${n}`,
        title: { text: title },
      },
    };
  });
  return {
    data: panels.flatMap(({ y }, i) => {
      const n = i === 0 ? "" : `${i + 1}`;
      const line = { type: "scatter", mode: "lines", x, xaxis: `x${n}`, yaxis: `y${n}` } as const;
      return [
        { ...line, y, line: { color: "#b9cfe8", width: 1 } },
        { ...line, y: runningMean(y), line: { color: "#1f5fa8", width: 2 } },
      ];
    }),
    layout: {
      showlegend: false,
      margin: { l: 60, r: 20, t: 20, b: 50 },
      ...Object.assign({}, ...axes),
    },
  };
}

/** The mean of the last twentieth of the steps, at least of five. */
function runningMean(values: readonly number[]): number[] {
  const width = Math.max(5, Math.round(values.length / 20));
  return values.map((_, i) => {
    const some = values.slice(Math.max(0, i + 1 - width), i + 1);
    return some.reduce((a, b) => a + b, 0) / some.length;
  });
}
