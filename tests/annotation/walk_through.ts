/**
 * A person at the page, played in a headless Chromium: `walk_through.ts SCENARIO FOLDER`. It runs as a
 * process of its own, since driving a browser takes permissions that the tests do without. Screenshots
 * go into the folder.
 */
import { assert, assertEquals } from "@std/assert";
import { type BrowserContextOptions, chromium, devices, type Page } from "playwright-core";
import { serveStudy, type StudyServer } from "../../lib/annotation/server.ts";
import { readStudy, type StoredStudy, writeStudy } from "../../lib/annotation/study.ts";
import { type CastVote, VoteStore } from "../../lib/annotation/votes.ts";
import { findChromium } from "./chromium.ts";
import { secrets, tinyImages, tinyStudy } from "./tiny_study.ts";

/** The server beside the browser, which a scenario may stop and start on the same port. */
class Service implements AsyncDisposable {
  readonly study: StoredStudy;
  readonly #votes: VoteStore;
  #stop = new AbortController();
  #server: StudyServer | undefined;
  #port = 0;

  constructor(study: StoredStudy, folder: string) {
    this.study = study;
    this.#votes = new VoteStore(`${folder}/votes.sqlite`);
  }

  get origin(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  get votes(): CastVote[] {
    return this.#votes.of(this.study.digest);
  }

  async start(): Promise<void> {
    this.#stop = new AbortController();
    this.#server = await serveStudy({
      study: this.study,
      votes: this.#votes,
      port: this.#port,
      signal: this.#stop.signal,
    });
    this.#port = this.#server.port;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#server?.finished;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    this.#votes[Symbol.dispose]();
  }
}

/** Waits until the page takes a vote on the question with this number, from 1. */
async function ready(page: Page, number: number): Promise<void> {
  await page.getByText(new RegExp(`^${number} of 12$`)).waitFor();
  await page.locator("#pair:not(.loading)").waitFor();
}

/** The page as it is now, without a name of what the study hides. */
async function assertBlind(page: Page): Promise<void> {
  const html = await page.content();
  for (const secret of secrets) assert(!html.includes(secret), `${secret} in ${html}`);
}

/** Which of an item's images a side shows: the first model's are red. */
async function shownOn(page: Page, side: "left" | "right"): Promise<"a" | "b"> {
  const red = await page.evaluate(`(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.drawImage(document.querySelector("#${side} img"), 0, 0);
    return canvas.getImageData(0, 0, 1, 1).data[0];
  })()`);
  return red === 255 ? "a" : "b";
}

/** Nothing is cut off, and all that is to be touched is on the screen at once. */
async function assertFits(page: Page): Promise<void> {
  const width = await page.evaluate("document.documentElement.scrollWidth");
  const { width: viewport, height } = page.viewportSize()!;
  assert(width as number <= viewport, `the page is ${width} wide, the screen ${viewport}`);
  for (const target of ["left", "right", "back", "other"]) {
    const box = (await page.locator(`#${target}`).boundingBox())!;
    assert(box.y + box.height <= height, `${target} ends at ${box.y + box.height} of ${height}`);
    assert(box.width >= 44 && box.height >= 44, `${target} is too small for a finger`);
  }
}

type Scenario = (page: Page, service: Service, folder: string) => Promise<void>;

const scenarios: Record<string, { options: BrowserContextOptions; play: Scenario }> = {
  keyboard: {
    options: { viewport: { width: 1280, height: 800 } },
    async play(page, service, folder) {
      await page.goto(service.origin);
      // The name's field has the focus: nothing needs a mouse.
      await page.keyboard.press("Enter");
      await page.screenshot({ path: `${folder}/name.png` });
      await page.keyboard.type("<i>Anna</i>");
      await page.keyboard.press("Enter");
      await ready(page, 1);
      assertEquals(await page.locator("#who").textContent(), "<i>anna</i>");
      await page.screenshot({ path: `${folder}/question.png` });

      const chosen: string[] = [];
      const keys = ["ArrowLeft", "ArrowRight", "1", "2"];
      for (let i = 0; i < 6; i++) {
        await ready(page, i + 1);
        await assertBlind(page);
        await assertFits(page);
        const key = keys[i % 4]!;
        chosen.push(await shownOn(page, i % 2 === 0 ? "left" : "right"));
        await page.keyboard.press(key);
      }
      await ready(page, 7);
      assertEquals(service.votes.map(({ choice }) => choice), chosen);
      await page.screenshot({ path: `${folder}/pace.png` });

      // Back, seen in the old choice, and changed.
      await page.keyboard.press("u");
      await ready(page, 6);
      assertEquals(await page.locator("#right").getAttribute("class"), "choice chosen");
      await page.screenshot({ path: `${folder}/back.png` });
      await page.keyboard.press("Backspace");
      await ready(page, 5);
      assertEquals(await page.locator("#left").getAttribute("class"), "choice chosen");
      await page.keyboard.press("2");
      await ready(page, 7);
      chosen[4] = chosen[4] === "a" ? "b" : "a";
      assertEquals(service.votes.map(({ choice }) => choice), chosen);

      // Loaded anew, the page remembers the person and goes on with the same pair.
      const images = await page.locator("#left img").getAttribute("src");
      await page.reload();
      await ready(page, 7);
      assertEquals(await page.locator("#left img").getAttribute("src"), images);

      // With the tabulator and the space bar, and a held key votes once.
      await page.keyboard.press("Tab");
      await page.screenshot({ path: `${folder}/focus.png` });
      await page.keyboard.press("Space");
      await ready(page, 8);
      await page.keyboard.down("1");
      for (let i = 0; i < 5; i++) {
        await page.keyboard.down("1");
        await page.waitForTimeout(120);
      }
      await page.keyboard.up("1");
      await ready(page, 9);

      // A prompt with markup is words.
      for (let i = 9; i <= 12; i++) {
        await ready(page, i);
        assertEquals(await page.locator("#prompt b, #who i").count(), 0);
        await page.keyboard.press("ArrowLeft");
      }
      await page.getByText("Thank you, <i>anna</i>!").waitFor();
      await page.screenshot({ path: `${folder}/done.png` });
      await assertBlind(page);
      assertEquals(service.votes.length, 12);
      assert(service.votes.every(({ annotator }) => annotator === "<i>anna</i>"));
      assert(service.votes.every(({ milliseconds }) => milliseconds >= 0 && milliseconds < 60_000));

      // The last vote can still be changed, and the next person starts at their beginning.
      const last = service.votes.at(-1)!.choice;
      await page.getByRole("button", { name: "Change the last vote" }).click();
      await ready(page, 12);
      await page.keyboard.press("ArrowRight");
      await page.getByText("Thank you").waitFor();
      assert(service.votes.length === 12 && service.votes.at(-1)!.choice !== last);
      await page.getByRole("button", { name: "Somebody else votes" }).click();
      await page.getByLabel("Your name").fill("Ben");
      await page.keyboard.press("Enter");
      await ready(page, 1);
      assertEquals(service.votes.length, 12);
    },
  },

  phone: {
    options: { ...devices["iPhone 13"], colorScheme: "dark" },
    async play(page, service, folder) {
      await page.goto(`${service.origin}/?annotator=Ben`);
      for (let i = 1; i <= 12; i++) {
        await ready(page, i);
        await assertBlind(page);
        await assertFits(page);
        const upper = (await page.locator("#left").boundingBox())!;
        const lower = (await page.locator("#right").boundingBox())!;
        assert(upper.y + upper.height <= lower.y, "the images are not one above the other");
        if (i <= 4) await page.screenshot({ path: `${folder}/phone-${i}.png` });
        const side = i % 2 === 0 ? "left" : "right";
        const shown = await shownOn(page, side);
        await page.locator(`#${side}`).tap();
        if (i === 5) {
          await ready(page, 6);
          await page.getByRole("button", { name: "Back" }).tap();
          await ready(page, 5);
          await page.locator("#right").tap();
        }
        if (i === 8) {
          await ready(page, 9);
          await page.goto(service.origin);
        }
        await (i < 12 ? ready(page, i + 1) : page.getByText("Thank you, ben!").waitFor());
        assertEquals(service.votes.length, i);
        assertEquals(service.votes.at(-1)!.choice, shown);
      }
      await page.screenshot({ path: `${folder}/phone-done.png` });
    },
  },

  sideways: {
    options: { ...devices["iPhone 13 landscape"] },
    async play(page, service, folder) {
      await page.goto(`${service.origin}/?annotator=Ben`);
      for (let i = 1; i <= 4; i++) {
        await ready(page, i);
        await assertFits(page);
        await page.screenshot({ path: `${folder}/sideways-${i}.png` });
        // Two quick taps are one vote.
        await page.locator("#left").tap();
        await page.locator("#left").dispatchEvent("click");
        await ready(page, i + 1);
        assertEquals(service.votes.length, i);
      }
    },
  },

  outage: {
    options: { viewport: { width: 1280, height: 800 }, colorScheme: "dark" },
    async play(page, service, folder) {
      await page.goto(`${service.origin}/?annotator=Ben`);
      await ready(page, 1);
      await page.keyboard.press("1");
      await ready(page, 2);
      await service.stop();
      const shown = await shownOn(page, "left");
      await page.keyboard.press("1");
      await page.getByText("Your vote is kept and sent again").waitFor();
      // While it is on its way no other vote is taken.
      await page.keyboard.press("2");
      await page.screenshot({ path: `${folder}/outage.png` });
      assertEquals(service.votes.length, 1);
      await service.start();
      await ready(page, 3);
      assertEquals(await page.getByText("does not answer").count(), 0);
      assertEquals([service.votes.length, service.votes[1]!.choice], [2, shown]);

      // A page that is closed meanwhile sends its vote when it is opened again.
      await service.stop();
      await page.keyboard.press("1");
      await page.getByText("Your vote is kept and sent again").waitFor();
      const { origin } = service;
      await page.goto("about:blank");
      await service.start();
      assertEquals(service.votes.length, 2);
      await page.goto(origin);
      await ready(page, 4);
      assertEquals(service.votes.length, 3);

      // An answer that gets lost leaves a vote that was taken: sent again, it is still one.
      await page.route("**/api/vote", async (route) => {
        await route.fetch();
        await route.abort();
      }, { times: 1 });
      await page.keyboard.press("2");
      await ready(page, 5);
      assertEquals(service.votes.length, 4);
    },
  },
};

const [name = "", folder = ""] = Deno.args;
const scenario = scenarios[name];
if (!scenario) throw new Error(`no scenario "${name}"; there are ${Object.keys(scenarios)}`);
await writeStudy(folder, tinyStudy, tinyImages);
await using service = new Service(await readStudy(folder), folder);
await service.start();
const browser = await chromium.launch({ executablePath: findChromium()! });
try {
  const page = await browser.newPage(scenario.options);
  page.setDefaultTimeout(15_000);
  const faults: string[] = [];
  page.on("pageerror", (error) => faults.push(error.message));
  const elsewhere: string[] = [];
  page.on("request", (request) => {
    if (!request.url().startsWith(service.origin) && !request.url().startsWith("data:")) {
      elsewhere.push(request.url());
    }
  });
  await scenario.play(page, service, folder);
  assertEquals(faults, []);
  assertEquals(elsewhere, []);
} finally {
  await browser.close();
}
