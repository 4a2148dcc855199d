/**
 * Choices as Pick-a-Pic v2 has them, of any number and without images: as many rows per caption, as many ties, sessions
 * in which the winner stays and the loser is replaced. 959,040 rows are the real training split's size.
 *
 * @module
 */
import { choiceRow, type OfferedImage, type PreferenceRow } from "../../lib/data/schema.ts";
import { generator } from "../../lib/tensor/random.ts";

const ROWS_PER_CAPTION = 959_040 / 58_960;
const TIES = 0.12;

/** Rows in the order of a shuffled dataset: by a caption's number, of which a session is spread over the file. */
export function* syntheticRows(count: number, seed = 0): Generator<PreferenceRow> {
  const random = generator({ seed, stream: 1, step: 0 });
  const captions = Math.ceil(count / ROWS_PER_CAPTION);
  const word = () => random.int(36 ** 5).toString(36);
  const image = (): OfferedImage => ({
    uid: `${word()}${word()}-${word()}-${word()}-${word()}`,
    bytes: new Uint8Array(),
    model: `model-${random.int(4)}`,
  });
  const sessions = Array.from({ length: captions }, (_, i) => ({
    caption: `${Array.from({ length: 3 + random.int(27) }, word).join(" ")} ${i}`,
    images: [image(), image()] as [OfferedImage, OfferedImage],
  }));
  for (let row = 0; row < count; row++) {
    const session = sessions[row % captions]!;
    const tie = random.chance(TIES);
    const label0 = tie ? 0.5 : random.chance(0.5) ? 1 : 0;
    const time = new Date(Date.UTC(2023, 0, 1) + 1000 * row);
    yield choiceRow({ ...session, images: [...session.images], label0, time }, row);
    session.images[label0 === 1 ? 1 : 0] = image();
  }
}
