/**
 * The voting page. The server knows where a person is; the page shows one turn at a time, sends the
 * vote until the server has taken it, and shows the turn that comes back.
 *
 * @module
 */

const byId = (id) => document.getElementById(id);
const screens = ["welcome", "voting", "done"].map(byId);
const choices = { left: byId("left"), right: byId("right") };
const keys = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right" };

/**
 * How long the images stay away between two turns: the change is seen even where the images are the
 * same, and a second tap that was meant for the pair before does not vote on this one.
 */
const settleMilliseconds = 200;
/** How many of the last votes the pace is taken from. */
const paceVotes = 20;
const nameKey = "annotator", pendingKey = "pending vote";

/** The turn on the screen, and when its images appeared; none while one is being loaded. */
let turn = null;
let shownAt = null;
/** Seconds from one vote to the next in this visit. */
const seconds = [];
let lastVoteAt = null;

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** What the browser remembers. A browser that refuses to only makes the person enter the name again. */
const memory = {
  get(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      if (value === null) localStorage.removeItem(key);
      else localStorage.setItem(key, value);
    } catch {
      // See above.
    }
  },
};

/** Shows one screen, and puts the focus where a screen reader should go on. */
function show(screen, focus) {
  for (const other of screens) other.hidden = other !== screen;
  focus.focus({ preventScroll: true });
}

function notice(words) {
  byId("notice").textContent = words ?? "";
  byId("notice").hidden = !words;
}

/**
 * Asks the server until it answers. The same vote may arrive twice this way, which the server counts
 * once.
 *
 * @param path What is asked for.
 * @param body JSON to send; without it the request is a GET.
 * @returns The answer; one that refuses has the property `error`.
 */
async function ask(path, body) {
  for (let wait = 1000;; wait = Math.min(2 * wait, 8000)) {
    try {
      const response = await fetch(path, {
        signal: AbortSignal.timeout(15_000),
        ...(body === undefined
          ? {}
          : { method: "POST", headers: { "content-type": "application/json" }, body }),
      });
      if (response.status < 500) {
        const answer = await response.json();
        notice(null);
        return answer;
      }
    } catch {
      // No answer, or half of one: asked again below.
    }
    notice(
      body === undefined
        ? "The server does not answer. Trying again …"
        : "The server does not answer. Your vote is kept and sent again as soon as it does.",
    );
    await Promise.race([
      pause(wait),
      new Promise((resolve) => addEventListener("online", resolve, { once: true })),
    ]);
  }
}

/** Sends a vote that stays remembered, also when the page is closed, until the server has it. */
async function send(vote) {
  memory.set(pendingKey, vote);
  const answer = await ask("api/vote", vote);
  memory.set(pendingKey, null);
  return answer;
}

/** Shows a person's question at a place, or the first open one. */
async function goTo(annotator, at) {
  const query = new URLSearchParams(at === undefined ? { annotator } : { annotator, at });
  const answer = await ask(`api/next?${query}`);
  if (answer.error) welcome(annotator, answer.error);
  else await showTurn(answer);
}

function welcome(name, refused) {
  turn = shownAt = null;
  byId("name").value = name ?? "";
  byId("refused").textContent = refused ?? "";
  byId("refused").hidden = !refused;
  show(byId("welcome"), byId("name"));
}

async function showTurn(next) {
  turn = next;
  shownAt = null;
  const { ask: asked, total, answered, annotator } = next;
  memory.set(nameKey, annotator);
  if (asked === null) {
    byId("thanks").textContent = `Thank you, ${annotator}!`;
    byId("summary").textContent = `You have answered all ${total} questions.`;
    show(byId("done"), byId("thanks"));
    return;
  }
  byId("place").textContent = `${asked.at + 1} of ${total}`;
  byId("pace").textContent = paceWords(total - answered);
  byId("progress").max = total;
  byId("progress").value = answered;
  byId("question").textContent = asked.question;
  byId("prompt").textContent = asked.prompt ?? "";
  byId("prompt").hidden = asked.prompt === null;
  byId("who").textContent = annotator;
  byId("back").disabled = asked.at === 0;
  Object.entries(choices).forEach(([side, button], i) => {
    button.disabled = true;
    button.classList.toggle("chosen", asked.chosen === side);
    button.querySelector("img").src = asked.images[i];
  });
  byId("pair").classList.add("loading");
  show(byId("voting"), byId("asked"));

  // Both appear at once: the first to load would have an advantage.
  const loaded = Object.values(choices).map((button) => button.querySelector("img").decode());
  try {
    await Promise.all([...loaded, pause(settleMilliseconds)]);
  } catch {
    if (turn !== next) return;
    notice("An image could not be loaded. Trying again …");
    await pause(1000);
    if (turn === next) await goTo(annotator, asked.at);
    return;
  }
  if (turn !== next) return;
  for (const button of Object.values(choices)) button.disabled = false;
  byId("pair").classList.remove("loading");
  shownAt = performance.now();
  for (const address of next.ahead) new Image().src = address;
}

/** How fast the person votes and how long the rest takes; nothing before that can be told. */
function paceWords(left) {
  if (seconds.length < 3) return "";
  const recent = seconds.slice(-paceVotes).sort((a, b) => a - b);
  // The median does not mind a break.
  const typical = recent[Math.floor(recent.length / 2)];
  const minutes = Math.round(left * typical / 60);
  const rest = minutes < 1 ? "less than a minute" : `about ${minutes} min`;
  return `${Math.round(60 / typical)} a minute, ${rest} left`;
}

async function choose(side) {
  if (shownAt === null) return;
  const now = performance.now();
  const { study, annotator, ask: { at } } = turn;
  const milliseconds = Math.round(now - shownAt);
  const vote = JSON.stringify({ study, annotator, at, side, milliseconds });
  turn = shownAt = null;
  for (const [other, button] of Object.entries(choices)) {
    button.disabled = true;
    button.classList.toggle("chosen", other === side);
  }
  if (lastVoteAt !== null) seconds.push((now - lastVoteAt) / 1000);
  lastVoteAt = now;
  const answer = await send(vote);
  if (answer.error) notice(`The vote was not taken: ${answer.error}`);
  else await showTurn(answer);
}

/** Goes back to the question before, whose vote can then be cast again. */
async function back() {
  if (turn === null || turn.ask?.at === 0) return;
  const { annotator, ask: asked, total } = turn;
  turn = shownAt = null;
  lastVoteAt = null;
  await goTo(annotator, (asked?.at ?? total) - 1);
}

function somebodyElse() {
  memory.set(nameKey, null);
  seconds.length = 0;
  lastVoteAt = null;
  welcome();
}

for (const [side, button] of Object.entries(choices)) {
  button.addEventListener("click", () => choose(side));
}
byId("back").addEventListener("click", back);
byId("reconsider").addEventListener("click", back);
byId("other").addEventListener("click", somebodyElse);
byId("someone").addEventListener("click", somebodyElse);
byId("names").addEventListener("submit", (event) => {
  event.preventDefault();
  goTo(byId("name").value);
});

addEventListener("keydown", (event) => {
  const { key, repeat, ctrlKey, altKey, metaKey, target } = event;
  // A held key votes once, and the browser's own shortcuts stay its own.
  if (repeat || ctrlKey || altKey || metaKey || target instanceof HTMLInputElement) return;
  if (byId("welcome").hidden === false) return;
  if (Object.hasOwn(keys, key)) choose(keys[key]);
  else if (key === "Backspace" || key.toLowerCase() === "u") back();
  else return;
  event.preventDefault();
});

const pending = memory.get(pendingKey);
if (pending !== null) await send(pending);
const name = new URLSearchParams(location.search).get("annotator") ?? memory.get(nameKey);
if (name) await goTo(name);
else welcome();
