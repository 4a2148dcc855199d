/**
 * Pick-a-Pic v2's schema: one row is one choice between two images of a prompt.
 *
 * @module
 */
import * as arrow from "apache-arrow";

/** A row; the keys are the file's column names. */
export interface PreferenceRow {
  readonly are_different: boolean;
  /** The preferred image, or `"tie"`. */
  readonly best_image_uid: string;
  readonly caption: string;
  readonly created_at: Date;
  readonly has_label: boolean;
  readonly image_0_uid: string;
  readonly image_0_url: string;
  readonly image_1_uid: string;
  readonly image_1_url: string;
  /** Encoded image bytes; despite the name of any format. */
  readonly jpg_0: Uint8Array;
  /** Encoded image bytes; despite the name of any format. */
  readonly jpg_1: Uint8Array;
  /** 1: image 0 was preferred, 0: image 1 was, 0.5: a tie. */
  readonly label_0: number;
  /** 1 - label_0. */
  readonly label_1: number;
  readonly model_0: string;
  readonly model_1: string;
  readonly ranking_id: number;
  readonly user_id: number;
  readonly num_example_per_prompt: number;
  readonly __index_level_0__: number;
}

/** An image that somebody chose between. */
export interface OfferedImage {
  /** Unique in the dataset. */
  readonly uid: string;
  /** Encoded, of any format. */
  readonly bytes: Uint8Array;
  /** What made it. */
  readonly model: string;
}

/** A choice between two images of a prompt. */
export interface OfferedChoice {
  readonly caption: string;
  readonly images: readonly [OfferedImage, OfferedImage];
  /** 1: the first image was preferred, 0: the second was, 0.5: a tie. */
  readonly label0: 0 | 0.5 | 1;
  /** When the choice was made: the order in which an image's opponents came depends on it. */
  readonly time: Date;
  /** Who chose; default 0. */
  readonly user?: number;
  /** How many choices there are of the prompt; default 1. */
  readonly perPrompt?: number;
}

/**
 * A choice as a row.
 *
 * @param row Its place in the file, which also serves as its `ranking_id`.
 *
 * @example
 * ```ts
 * const image = (uid: string) => ({ uid, bytes: new Uint8Array(), model: "mine" });
 * const row = choiceRow({
 *   caption: "a red circle",
 *   images: [image("a"), image("b")],
 *   label0: 1,
 *   time: new Date(),
 * }, 0);
 * console.log(row.best_image_uid); // a
 * ```
 */
export function choiceRow(choice: OfferedChoice, row: number): PreferenceRow {
  const { caption, images: [first, second], label0, time, user = 0, perPrompt = 1 } = choice;
  const tie = label0 === 0.5;
  return {
    are_different: !tie,
    best_image_uid: tie ? "tie" : label0 === 1 ? first.uid : second.uid,
    caption,
    created_at: time,
    has_label: true,
    image_0_uid: first.uid,
    image_0_url: "",
    image_1_uid: second.uid,
    image_1_url: "",
    jpg_0: first.bytes,
    jpg_1: second.bytes,
    label_0: label0,
    label_1: 1 - label0,
    model_0: first.model,
    model_1: second.model,
    ranking_id: row,
    user_id: user,
    num_example_per_prompt: perPrompt,
    __index_level_0__: row,
  };
}

/** A column's name. */
export type PreferenceColumn = keyof PreferenceRow;

type Kind = "bool" | "utf8" | "binary" | "float64" | "int64" | "timestamp";

const KINDS: Readonly<Record<PreferenceColumn, Kind>> = {
  are_different: "bool",
  best_image_uid: "utf8",
  caption: "utf8",
  created_at: "timestamp",
  has_label: "bool",
  image_0_uid: "utf8",
  image_0_url: "utf8",
  image_1_uid: "utf8",
  image_1_url: "utf8",
  jpg_0: "binary",
  jpg_1: "binary",
  label_0: "float64",
  label_1: "float64",
  model_0: "utf8",
  model_1: "utf8",
  ranking_id: "int64",
  user_id: "int64",
  num_example_per_prompt: "int64",
  __index_level_0__: "int64",
};

/** All columns in the file's order. */
export const PREFERENCE_COLUMNS = Object.keys(KINDS) as PreferenceColumn[];

/** What a kind of column is called in messages, and the Arrow types it may come in. */
const ACCEPTED: Readonly<Record<Kind, readonly [string, (type: arrow.DataType) => boolean]>> = {
  bool: ["yes and no", arrow.DataType.isBool],
  utf8: ["text", (type) => arrow.DataType.isUtf8(type) || arrow.DataType.isLargeUtf8(type)],
  binary: ["bytes", (type) => arrow.DataType.isBinary(type) || arrow.DataType.isLargeBinary(type)],
  float64: ["a number", (type) => arrow.DataType.isFloat(type) || arrow.DataType.isInt(type)],
  int64: ["an integer", arrow.DataType.isInt],
  timestamp: ["a timestamp", arrow.DataType.isTimestamp],
};

/**
 * What is wrong with a column's type, if anything is. Programs write the same values in different types (wider
 * offsets, a dictionary, 32-bit numbers): these are all taken.
 */
export function columnFault(name: PreferenceColumn, type: arrow.DataType): string | undefined {
  const [expected, accepts] = ACCEPTED[KINDS[name]];
  if (accepts(arrow.DataType.isDictionary(type) ? type.dictionary : type)) return undefined;
  return `column "${name}" is ${type}; ${expected} is expected`;
}

/** Builds an Arrow table in exactly the schema's types from rows. */
export function tableFromRows(rows: readonly PreferenceRow[]): arrow.Table {
  const columns = PREFERENCE_COLUMNS.map((name) => {
    const values = rows.map((row) => row[name]);
    return [name, vectorOf(KINDS[name], values)] as const;
  });
  return new arrow.Table(Object.fromEntries(columns) as Record<string, arrow.Vector>);
}

function vectorOf(kind: Kind, values: readonly PreferenceRow[PreferenceColumn][]): arrow.Vector {
  const integers = (scale: bigint) =>
    BigInt64Array.from(values, (value) => BigInt(Number(value)) * scale);
  switch (kind) {
    case "bool":
      return arrow.vectorFromArray(values as boolean[], new arrow.Bool());
    case "utf8":
      return arrow.vectorFromArray(values as string[], new arrow.Utf8());
    case "float64":
      return arrow.makeVector(Float64Array.from(values as number[]));
    case "int64":
      return arrow.makeVector(integers(1n));
    case "timestamp":
      return arrow.makeVector(arrow.makeData({
        type: new arrow.TimestampNanosecond(),
        length: values.length,
        nullCount: 0,
        data: integers(1_000_000n),
      }));
    case "binary":
      return binaryVector(values as Uint8Array[]);
  }
}

function binaryVector(values: readonly Uint8Array[]): arrow.Vector {
  const valueOffsets = new Int32Array(values.length + 1);
  values.forEach((bytes, i) => valueOffsets[i + 1] = valueOffsets[i]! + bytes.length);
  const data = new Uint8Array(valueOffsets[values.length]!);
  values.forEach((bytes, i) => data.set(bytes, valueOffsets[i]));
  return arrow.makeVector(arrow.makeData({
    type: new arrow.Binary(),
    length: values.length,
    nullCount: 0,
    valueOffsets,
    data,
  }));
}
