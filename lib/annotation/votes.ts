/**
 * Votes in a SQLite file. Each is on disk before it counts as cast, and is stored under what was asked
 * of whom, so that a vote sent twice is one vote and a vote cast again replaces the earlier one.
 *
 * @module
 */
import { DatabaseSync } from "node:sqlite";
import type { QuestionId } from "./study.ts";

/** What a person, or a program in the place of one, chose. */
export interface Vote {
  readonly annotator: string;
  /** The item's id. */
  readonly item: string;
  readonly question: QuestionId;
  /** The item's image that was preferred. */
  readonly choice: "a" | "b";
}

/** A vote with the circumstances in which it was cast. */
export interface CastVote extends Vote {
  /** The item's image that was on the left. */
  readonly left: "a" | "b";
  /** From the images' appearance to the choice, pauses included. */
  readonly milliseconds: number;
  /** When it was cast, or last changed: ISO 8601, UTC. */
  readonly time: string;
}

/** How far a person has come. */
export interface Progress {
  readonly annotator: string;
  readonly votes: number;
  /** When the last vote was cast: ISO 8601, UTC. */
  readonly lastVote: string;
}

/** Marks a database of votes in its header ("NCPv"), so that no other program's is taken for one. */
const applicationId = 0x4e435076;

/** The layout of the tables below; raised when it changes. */
const layout = 1;

const tables = `
  CREATE TABLE votes (
    study TEXT NOT NULL,
    annotator TEXT NOT NULL,
    item TEXT NOT NULL,
    question TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('a', 'b')),
    left_image TEXT NOT NULL CHECK (left_image IN ('a', 'b')),
    milliseconds INTEGER NOT NULL CHECK (milliseconds >= 0),
    time TEXT NOT NULL,
    PRIMARY KEY (study, annotator, item, question)
  ) STRICT;
  PRAGMA application_id = ${applicationId};
  PRAGMA user_version = ${layout};
`;

/** The votes of any number of studies in one file. */
export class VoteStore implements Disposable {
  readonly #database: DatabaseSync;

  /**
   * Opens the file, or makes it.
   *
   * @param path The file; its folder must exist.
   * @param options `readOnly` only reads: the file must be there, and needs no permission to write.
   * @throws {Error} if the file is no database of votes, or cannot be opened or made.
   */
  constructor(path: string, { readOnly = false }: { readonly readOnly?: boolean } = {}) {
    const remedy = "name another file, or move this one away";
    let database: DatabaseSync | undefined;
    try {
      database = new DatabaseSync(path, { readOnly });
      database.exec("PRAGMA busy_timeout = 5000");
      // Nothing is read before the first statement. The journal is SQLite's default, which unlike the
      // write-ahead log leaves everything in the one file that a person may copy.
      if (!readOnly) database.exec("PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA");
      this.#prepare(database, path, remedy, readOnly);
    } catch (cause) {
      database?.close();
      const { message } = cause as Error;
      if (message.includes("file is not a database")) {
        throw new Error(`${path} is not a SQLite database: ${remedy}`, { cause });
      }
      if (message.startsWith(path) || cause instanceof Deno.errors.NotCapable) throw cause;
      throw new Error(`the votes ${path} cannot be opened: ${message}`, { cause });
    }
    this.#database = database;
  }

  #prepare(database: DatabaseSync, path: string, remedy: string, readOnly: boolean): void {
    const pragma = (name: string) => Number(database.prepare(`PRAGMA ${name}`).get()![name]);
    if (!readOnly) {
      // Two programs may open a new file at once: only one of them makes the tables.
      database.exec("BEGIN IMMEDIATE");
      const { n } = database.prepare("SELECT count(*) AS n FROM sqlite_schema").get()!;
      if (n === 0 && pragma("user_version") === 0) database.exec(tables);
    }
    if (pragma("application_id") !== applicationId) {
      throw new Error(`${path} is a database of something else than votes: ${remedy}`);
    }
    if (pragma("user_version") !== layout) {
      throw new Error(
        `${path} has votes in layout ${pragma("user_version")}, but this version of the program ` +
          `knows layout ${layout}: ${remedy}`,
      );
    }
    if (!readOnly) database.exec("COMMIT");
  }

  /**
   * Casts a vote, or replaces the one that the person cast on the same question before. When this
   * returns the vote is on disk.
   *
   * @param study The study's digest.
   * @param vote The vote.
   * @throws {Error} if it cannot be written; then the earlier vote stands.
   */
  cast(study: string, vote: CastVote): void {
    this.#database.prepare(
      `INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT DO UPDATE SET choice = excluded.choice, left_image = excluded.left_image,
         milliseconds = excluded.milliseconds, time = excluded.time`,
    ).run(
      study,
      vote.annotator,
      vote.item,
      vote.question,
      vote.choice,
      vote.left,
      vote.milliseconds,
      vote.time,
    );
  }

  /**
   * The votes of a study, in the order in which they were first cast.
   *
   * @param study The study's digest.
   * @param annotator Only this person's; everybody's unless given.
   */
  of(study: string, annotator?: string): CastVote[] {
    return this.#database.prepare(
      `SELECT annotator, item, question, choice, left_image AS left, milliseconds, time FROM votes
       WHERE study = ? AND (? IS NULL OR annotator = ?) ORDER BY rowid`,
    ).all(study, annotator ?? null, annotator ?? null).map((row) =>
      ({ ...row }) as unknown as CastVote
    );
  }

  /**
   * How far everybody has come in a study, by name.
   *
   * @param study The study's digest.
   */
  progress(study: string): Progress[] {
    return this.#database.prepare(
      `SELECT annotator, count(*) AS votes, max(time) AS lastVote FROM votes
       WHERE study = ? GROUP BY annotator ORDER BY annotator`,
    ).all(study).map((row) => ({ ...row }) as unknown as Progress);
  }

  /** How many votes the file has, of all studies. */
  count(): number {
    return Number(this.#database.prepare("SELECT count(*) AS n FROM votes").get()!.n);
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#database.close();
  }
}
