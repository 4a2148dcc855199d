/**
 * `deno task annotate`: people vote between the images of a study on a local web page.
 *
 * @module
 */
import { dirname } from "node:path";
import {
  type CastVote,
  readStudy,
  serveStudy,
  type StoredStudy,
  type Study,
  summarize,
  VoteStore,
} from "../annotation/mod.ts";
import { inPercent } from "../evaluation/mod.ts";
import { csvTable, markdownTable } from "../experiments/report.ts";
import { writeWhole } from "../experiments/run.ts";
import { choice, flag, integer, text } from "./options.ts";
import { runCommand } from "./run_command.ts";
import { UserError } from "./user_error.ts";

const command = {
  name: "annotate",
  summary: "Serve a web page on which people choose between two images, or sum up their votes.",
  options: {
    study: text({
      description: "folder of the study",
      placeholder: "DIR",
      default: "results/figure4/study",
    }),
    votes: text({
      description: "SQLite file that keeps the votes",
      placeholder: "FILE",
      default: "data/annotations.sqlite",
    }),
    port: integer({ description: "port; 0 takes any free one", default: 8000, min: 0, max: 65535 }),
    host: choice(["127.0.0.1", "0.0.0.0"], {
      description: "who may vote: this machine, or with 0.0.0.0 everyone in its network, such as " +
        "a phone",
      default: "127.0.0.1",
    }),
    report: flag({ description: "print what the votes say, and serve nothing" }),
    export: text({
      description: "write the votes to this CSV file, and serve nothing",
      placeholder: "FILE",
    }),
  },
  examples: [
    "deno task annotate",
    "deno task annotate --host 0.0.0.0",
    "deno task annotate --report --export votes.csv",
  ],
};

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const stored = await readStudy(options.study);
    const serving = !options.report && options.export === undefined;
    if (serving) await Deno.mkdir(dirname(options.votes), { recursive: true });
    else await mustExist(options.votes);
    using votes = new VoteStore(options.votes);
    if (serving) return await serve(stored, votes, options);

    const cast = votes.of(stored.digest);
    if (cast.length === 0) {
      throw new UserError(
        `${options.votes} has no votes on the study in ${options.study}` +
          (votes.count() > 0 ? `, only ${votes.count()} on others or on earlier images of it` : ""),
      );
    }
    if (options.export !== undefined) {
      await writeWhole(options.export, votesCsv(stored.study, cast));
      console.error(`Wrote ${cast.length} votes to ${options.export}`);
    }
    if (options.report) {
      console.log(report(stored.study, cast));
      console.error(progressText(stored, votes));
    }
  });
}

async function serve(
  stored: StoredStudy,
  votes: VoteStore,
  options: { readonly votes: string; readonly host: string; readonly port: number },
): Promise<void> {
  const { host: hostname, port } = options;
  const stop = new AbortController();
  const end = () => stop.abort();
  const signals = Deno.build.os === "windows"
    ? ["SIGINT"] as const
    : ["SIGINT", "SIGTERM"] as const;
  for (const signal of signals) Deno.addSignalListener(signal, end);
  const server = await serveStudy({ study: stored, votes, hostname, port, signal: stop.signal });
  console.error(`${stored.study.title}: ${progressText(stored, votes)}`);
  for (const address of addresses(hostname)) {
    console.log(`Vote at http://${address}:${server.port}/`);
  }
  console.error(`Votes are kept in ${options.votes}; Ctrl-C stops.`);
  await server.finished;
  console.error(`\nStopped. ${progressText(stored, votes)}`);
}

/** Under which addresses a browser finds the page: this machine's in its networks for 0.0.0.0. */
function addresses(hostname: string): string[] {
  if (hostname !== "0.0.0.0") return [hostname];
  const found = Deno.networkInterfaces().filter(({ family }) => family === "IPv4")
    .map(({ address }) => address);
  return found.length > 0 ? found : ["127.0.0.1"];
}

async function mustExist(path: string): Promise<void> {
  try {
    await Deno.stat(path);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new UserError(
      `votes file ${path} does not exist: let people vote with "deno task annotate" first`,
      { cause },
    );
  }
}

function progressText({ study, digest }: StoredStudy, votes: VoteStore): string {
  const each = study.items.length * study.questions.length;
  const people = votes.progress(digest).map(({ annotator, votes }) => `${annotator} ${votes}`);
  return `${each} questions a person; ` +
    (people.length > 0 ? `answered: ${people.join(", ")}` : "no votes yet");
}

function report(study: Study, votes: readonly CastVote[]): string {
  return markdownTable({
    columns: [
      { heading: "comparison", name: "comparison" },
      { heading: "kind", name: "kind" },
      { heading: "question", name: "question" },
      { heading: "items", name: "items", decimals: 0 },
      { heading: "votes", name: "votes", decimals: 0 },
      { heading: "people", name: "annotators", decimals: 0 },
      { heading: "won by the first, %", name: "share", decimals: 1, interval: true },
      { heading: "Fleiss' kappa", name: "kappa", decimals: 2 },
    ],
    rows: summarize(study, votes).map((row) => [
      row.comparison,
      row.kind ?? "all",
      row.question,
      row.outcomes.length,
      row.votes,
      row.annotators,
      row.share && inPercent(row.share),
      row.kappa,
    ]),
  });
}

function votesCsv(study: Study, votes: readonly CastVote[]): string {
  const items = new Map(study.items.map((item) => [item.id, item]));
  const columns = [
    ...["annotator", "item", "comparison", "kind", "prompt", "question", "choice", "chosen_model"],
    ...["model_a", "model_b", "left_image", "milliseconds", "time"],
  ].map((name) => ({ name, heading: name }));
  const rows = votes.map((vote) => {
    const item = items.get(vote.item)!;
    return [
      vote.annotator,
      item.id,
      item.comparison,
      item.kind,
      item.prompt,
      vote.question,
      vote.choice,
      item[vote.choice].model,
      item.a.model,
      item.b.model,
      vote.left,
      vote.milliseconds,
      vote.time,
    ];
  });
  return csvTable({ columns, rows });
}
