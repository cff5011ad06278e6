// The reader's page. It builds text nodes alone, never HTML, and requests nothing but its own paths.

const at = (id) => document.getElementById(id);
const KEYS_MOVE = 40; // pixels that an arrow key moves a film

let session = null; // reader, csrf and seconds until the session ends
let films = []; // as listed
let open = null; // the film that is shown
let ending = 0; // the timer that empties an unattended page

// --- requests

class Refused extends Error {}

async function request(method, path, body) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (session && method !== "GET") headers["X-CSRF-Token"] = session.csrf;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Refused("The service doesn't answer. Try again.");
  }
  if (answer.ok) {
    if (session) stayUntil(session.seconds);
    return answer;
  }
  const { error } = await answer.json().catch(() => ({ error: `Status ${answer.status}` }));
  if (answer.status === 401 && session) leave("Your session has ended. Sign in again.");
  throw new Refused(error);
}

const fetched = async (path) => (await request("GET", path)).json();

// Run what a person began, and say what failed.
function began(action) {
  return async (...given) => {
    say("");
    try {
      await action(...given);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (!at("alert").textContent) say(error.message);
    }
  };
}

const say = (words) => { at("alert").textContent = words; };
const tell = (words) => { at("status").textContent = words; };

// --- signing in and out

function stayUntil(seconds) {
  clearTimeout(ending);
  ending = setTimeout(() => leave("Your session has ended. Sign in again."), 1000 * seconds);
}

async function enter(found) {
  session = found;
  stayUntil(session.seconds);
  at("reader").textContent = session.reader;
  show(true);
  await list();
  await follow();
  if (!open) at("list-title").focus();
}

// Remove what was shown, also from the canvas.
function leave(words) {
  clearTimeout(ending);
  session = open = null;
  films = [];
  viewer.clear();
  at("films").replaceChildren();
  for (const id of ["readings", "numbers", "scores", "limits", "others"]) at(id).replaceChildren();
  for (const id of ["film-title", "counts", "reason", "word", "reader", "kept", "next", "shown"]) at(id).textContent = "";
  history.replaceState(null, "", location.pathname);
  show(false);
  say(words);
  at("token").focus();
}

function show(signedIn) {
  at("entry").hidden = signedIn;
  for (const id of ["work", "who", "sign-out"]) at(id).hidden = !signedIn;
  if (!signedIn) place(null);
}

at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  began(async () => {
    const token = at("token").value.trim();
    at("token").value = "";
    at("token").focus();
    await enter(await (await request("POST", "session", { token })).json());
  })();
});

at("sign-out").addEventListener("click", began(async () => {
  await request("DELETE", "session");
  leave("");
  tell("Signed out.");
}));

// --- the list

const short = (id) => id.slice(0, 8);
const share = (p) => (p === null ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));
const clock = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const time = (text) => clock.format(new Date(text));

const signed = (change) => {
  const size = Math.abs(change).toFixed(2);
  return size === "0.00" ? size : `${change < 0 ? "−" : "+"}${size}`;
};

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function list() {
  const found = await fetched("films");
  films = found.films;
  const total = Object.values(found.counts).reduce((a, b) => a + b, 0);
  const words = Object.entries(found.counts).map(([word, n]) => `${n} ${word}`);
  if (found.waiting) words.push(`${found.waiting} waiting`);
  const more = total > films.length ? ` The ${films.length} most suspicious are listed.` : "";
  at("counts").textContent = `${total} ${total === 1 ? "film" : "films"}: ${words.join(", ")}.${more}`;
  at("drift").textContent = found.alarm && `Alarm: ${found.alarm}.`;
  at("drift").hidden = !found.alarm;
  fill();
}

const shownFilms = () => {
  const which = at("which").value;
  const all = !at("open").checked;
  return films.filter((film) => (!which || film.verdict === which) && (all || !film.mine));
};

function row(film) {
  const link = element("a", undefined, { href: `#${film.id}`, tabindex: "-1" });
  link.append(
    element("span", film.verdict, { class: "word", "data-word": film.verdict }),
    element("span", share(film.p), { class: "p" }),
    element("span", film.finding ?? "no finding", { class: "finding" }),
    element("span", time(film.judged), { class: "when" }),
    element("span", film.mine ? `mine: ${film.mine}` : "", { class: "mine" }),
  );
  link.setAttribute("aria-label", `${film.verdict}, p ${share(film.p)}, ${film.finding ?? "no finding"}, judged ${time(film.judged)}, ${film.mine ? `my verdict ${film.mine}` : "without my verdict"}`);
  const item = element("li");
  item.append(link);
  return item;
}

function fill() {
  const rows = shownFilms().map(row);
  at("films").replaceChildren(...rows);
  at("none").hidden = rows.length > 0;
  mark();
}

// Mark the open film in the list.
function mark() {
  at("films").querySelector("[aria-current]")?.removeAttribute("aria-current");
  const link = open && links().find((each) => each.hash === `#${open.id}`);
  link?.setAttribute("aria-current", "true");
  const first = link ?? at("films").querySelector("a");
  if (first) reach(first);
  neighbours();
}

const links = () => [...at("films").querySelectorAll("a")];

// One link of the list can be reached by Tab, and arrow keys move from it.
function reach(link) {
  for (const each of at("films").querySelectorAll('[tabindex="0"]')) each.tabIndex = -1;
  link.tabIndex = 0;
}

at("films").addEventListener("focusin", (event) => reach(event.target));
at("films").addEventListener("keydown", (event) => {
  const all = links();
  const here = all.indexOf(document.activeElement);
  const there = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: all.length - 1 }[event.key];
  if (there === undefined || !all[there]) return;
  event.preventDefault();
  all[there].focus();
});
at("which").addEventListener("change", fill);
at("open").addEventListener("change", fill);
at("refresh").addEventListener("click", began(async () => {
  await list();
  tell(at("counts").textContent);
}));

// --- a film

const greys = async (path) => (await request("GET", path)).arrayBuffer();

const asked = () => (/^#[0-9a-f]{32}$/.test(location.hash) ? location.hash.slice(1) : null);

// Show the film that the address names, or none.
async function follow() {
  const id = asked();
  if (!session || id === (open && open.id) || (location.hash && !id)) return; // "#main" is no film
  if (!id) {
    const last = open;
    open = null;
    viewer.clear();
    place(null);
    mark();
    const link = last && links().find((each) => each.hash === `#${last.id}`);
    (link ?? at("list-title")).focus();
    return;
  }
  const film = await fetched(`films/${id}`);
  const [pixels, alike] = await Promise.all([
    film.image && greys(`films/${id}/pixels`),
    film.alike && greys(`films/${id}/alike`).catch(() => null), // the film is shown all the same
  ]);
  if (!session || asked() !== id) return; // another film, or nobody, was asked for meanwhile
  open = { id, ...film };
  place(open);
  viewer.load(film.image, pixels, alike, film.answer.decision);
  mark();
  at("film-title").focus();
}

function place(film) {
  document.body.classList.toggle("filmed", film !== null);
  at("film").hidden = film === null;
  at("nothing").hidden = film !== null;
  document.title = film === null ? "Films | leadapron" : `Film ${short(film.id)} | leadapron`;
  if (film !== null) describe(film);
}

function pairs(id, facts) {
  at(id).replaceChildren(...facts.filter(([, value]) => value)
    .flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

function describe({ id, answer, image, reviews }) {
  const { decision, verdict } = answer;
  at("film-title").textContent = `Film ${short(id)}`;
  at("word").textContent = decision.verdict;
  at("word").dataset.word = decision.verdict;
  at("reason").textContent = decision.reason;
  at("next").textContent = verdict.next;
  const { region } = decision;
  pairs("numbers", [
    ["p", decision.p === null ? null : `${share(decision.p)} (share of clean films with as high a score)`],
    ["Drives", decision.drives === null ? null : `${share(decision.drives)} (whose region drives the reading as much)`],
    ["Unlike", decision.unlike === null ? null : `${share(decision.unlike)} (as unlike the other clean films)`],
    ["Region", region && `${region.height} × ${region.width} pixels at row ${region.row}, column ${region.column}`],
    ["Finding", decision.finding],
    ["Judged", new Date(answer.judged).toLocaleString()],
  ]);
  at("reading").hidden = !decision.readings.length;
  at("readings").replaceChildren(...decision.readings.map((reading) => {
    const line = element("tr");
    const change = reading.without - reading.probability;
    line.append(
      element("th", reading.finding, { scope: "row" }),
      element("td", reading.probability.toFixed(2)),
      element("td", reading.without.toFixed(2)),
      element("td", signed(change)),
    );
    return line;
  }));
  pairs("scores", [
    ...Object.entries(decision.scores).map(([name, score]) => [name, score === null ? "none" : score.toPrecision(3)]),
    ["Film", id], ["Gate", answer.gate], ["Model", answer.model],
  ]);
  at("limits").replaceChildren(element("li", verdict.statement), ...verdict.untested.map((each) => element("li", each)));
  at("shown").textContent = image === null ? ""
    : `Shown is what the model saw: ${image.height} × ${image.width} pixels after its preprocessing. The original film isn't kept here; it is in the archive that sent it.`;
  calls(reviews);
}

function calls(reviews) {
  const mine = reviews.find((each) => each.mine);
  for (const button of at("calls").children) button.setAttribute("aria-pressed", String(button.dataset.call === mine?.call));
  at("kept").textContent = mine ? `Kept ${new Date(mine.at).toLocaleString()}. You can change it; each verdict is kept.`
    : "Other readers' verdicts show once yours is kept.";
  at("others").replaceChildren(...reviews.filter((each) => !each.mine)
    .map((each) => element("li", `${each.reader}: ${each.call}, ${time(each.at)}`)));
}

at("calls").addEventListener("click", began(async (event) => {
  const { call } = event.target.dataset;
  if (!call) return;
  const { id } = open;
  await request("POST", `films/${id}/reviews`, { call });
  const listed = films.find((film) => film.id === id);
  if (listed) listed.mine = call;
  tell(`Kept: ${call}.`);
  if (open?.id !== id) return;
  calls((await fetched(`films/${id}`)).reviews);
  fill();
}));

function neighbours() {
  const ids = shownFilms().map((film) => film.id);
  // A film that a filter hides keeps its neighbours by suspicion.
  const order = films.map((film) => film.id);
  const here = open ? order.indexOf(open.id) : -1;
  const near = {
    before: order.slice(0, Math.max(here, 0)).filter((id) => ids.includes(id)).at(-1),
    after: order.slice(here + 1).find((id) => ids.includes(id)),
  };
  for (const [id, film] of Object.entries(near)) {
    const link = at(id);
    if (film) link.href = `#${film}`;
    else link.removeAttribute("href");
    if (film) link.removeAttribute("aria-disabled");
    else link.setAttribute("aria-disabled", "true");
  }
}

at("back").addEventListener("click", (event) => {
  event.preventDefault();
  history.pushState(null, "", location.pathname);
  began(follow)();
});
addEventListener("hashchange", began(follow));

// --- the picture

const viewer = {
  films: [], // the film, and the one beside it: canvas that shows it, grey values, windowed picture
  shape: null,
  region: null,
  view: null, // zoom, and the film's middle in shares of the film

  clear() {
    this.films = [];
    this.shape = this.region = null;
    for (const id of ["canvas", "alike"]) at(id).getContext("2d").clearRect(0, 0, at(id).width, at(id).height);
  },

  load(shape, pixels, alike, decision) {
    this.clear();
    at("beside").hidden = !alike;
    for (const id of ["viewer", "controls", "viewer-keys"]) at(id).hidden = shape === null;
    at("no-picture").hidden = shape !== null;
    if (shape === null) return;
    this.shape = shape;
    this.region = decision.region;
    this.films = [["canvas", pixels], ["alike", alike]].filter(([, found]) => found).map(([id, found]) => ({
      canvas: at(id),
      values: shape.white === 255 ? new Uint8Array(found) : sixteenBits(found),
      picture: element("canvas", undefined, { width: shape.width, height: shape.height }),
    }));
    at("width").max = at("level").max = shape.white;
    at("frame").disabled = !this.region;
    const where = this.region ? `evidence region of ${this.region.height} by ${this.region.width} pixels at row ${this.region.row}, column ${this.region.column}` : "no evidence region";
    at("alike").setAttribute("aria-label", `The calibration film that looks most like it, ${shape.height} by ${shape.width} pixels`);
    at("canvas").setAttribute("aria-label", `The film as the model saw it, ${shape.height} by ${shape.width} pixels, ${where}`);
    this.reset();
  },

  reset() {
    if (!this.shape) return;
    this.view = { zoom: 1, x: 0.5, y: 0.5 };
    at("zoom").value = 1;
    at("invert").checked = false;
    this.window(this.shape.white, Math.round(this.shape.white / 2));
  },

  // From the 1st to the 99th percentile.
  fit() {
    const counts = new Uint32Array(this.shape.white + 1);
    const { values } = this.films[0];
    for (const value of values) counts[value] += 1;
    const grey = (part) => {
      let left = part * values.length;
      return counts.findIndex((n) => (left -= n) <= 0);
    };
    const [low, high] = [grey(0.01), grey(0.99)];
    this.window(Math.max(high - low, 1), Math.round((low + high) / 2));
  },

  window(width, level) {
    const { white } = this.shape;
    at("width").value = Math.min(Math.max(Math.round(width), 1), white);
    at("level").value = Math.min(Math.max(Math.round(level), 0), white);
    this.render();
  },

  // Grey values to the screen's, through window and level.
  render() {
    if (!this.shape) return;
    const { width: columns, height: rows, white } = this.shape;
    const [width, level] = [Number(at("width").value), Number(at("level").value)];
    const turned = at("invert").checked;
    const greys = new Uint8ClampedArray(white + 1);
    for (let value = 0; value <= white; value += 1) {
      const grey = (255 * (value - level + width / 2)) / width;
      greys[value] = turned ? 255 - grey : grey;
    }
    for (const { values, picture } of this.films) {
      const drawn = new ImageData(columns, rows);
      const points = new Uint32Array(drawn.data.buffer);
      for (let i = 0; i < values.length; i += 1) points[i] = 0xff000000 | (greys[values[i]] * 0x010101);
      picture.getContext("2d").putImageData(drawn, 0, 0);
    }
    this.draw();
  },

  // The scale from the film's pixels to the canvas's, and the film's upper left corner there.
  spot(canvas = at("canvas")) {
    const { width, height } = this.shape;
    const scale = Math.min(canvas.width / width, canvas.height / height) * this.view.zoom;
    return { scale, left: canvas.width / 2 - this.view.x * width * scale, top: canvas.height / 2 - this.view.y * height * scale };
  },

  draw() {
    const dense = devicePixelRatio || 1;
    at("viewer").classList.toggle("near", this.view?.zoom > 1);
    for (const [id, words] of [["zoom", `${Number(at("zoom").value)}×`], ["width", at("width").value], ["level", at("level").value]]) at(`${id}-value`).textContent = words;
    for (const { canvas, picture } of this.films) {
      canvas.width = Math.round(canvas.clientWidth * dense);
      canvas.height = Math.round(canvas.clientHeight * dense);
      const context = canvas.getContext("2d");
      const { scale, left, top } = this.spot(canvas);
      context.imageSmoothingEnabled = false; // a pixel that the model saw is a square
      context.drawImage(picture, left, top, this.shape.width * scale, this.shape.height * scale);
    }
    if (!this.region || !at("frame").checked) return;
    const context = at("canvas").getContext("2d");
    const { scale, left, top } = this.spot();
    const { row, column, height, width } = this.region;
    for (const [colour, thick] of [["#000", 5], ["#4fe3ff", 2]]) {
      const out = 3 * dense; // around the region, not over it
      context.strokeStyle = colour;
      context.lineWidth = thick * dense;
      context.strokeRect(left + column * scale - out, top + row * scale - out, width * scale + 2 * out, height * scale + 2 * out);
    }
  },

  // Zoom, with the point of the canvas (in shares of it) that stays where it is.
  zoom(value, x = 0.5, y = 0.5) {
    if (!this.shape) return;
    const canvas = at("canvas");
    const before = this.spot();
    const point = [(x * canvas.width - before.left) / before.scale, (y * canvas.height - before.top) / before.scale];
    this.view.zoom = Math.min(Math.max(value, 1), 16);
    const { scale } = this.spot();
    this.view.x = (point[0] + (canvas.width / 2 - x * canvas.width) / scale) / this.shape.width;
    this.view.y = (point[1] + (canvas.height / 2 - y * canvas.height) / scale) / this.shape.height;
    at("zoom").value = this.view.zoom;
    this.move(0, 0);
  },

  // Move by pixels of the screen; the film's middle stays within the film.
  move(right, down) {
    if (!this.shape) return;
    const dense = devicePixelRatio || 1;
    const { scale } = this.spot();
    const within = (share) => (this.view.zoom === 1 ? 0.5 : Math.min(Math.max(share, 0), 1));
    this.view.x = within(this.view.x - (right * dense) / scale / this.shape.width);
    this.view.y = within(this.view.y - (down * dense) / scale / this.shape.height);
    this.draw();
  },
};

// Two bytes a pixel, the lower one first, on any machine.
function sixteenBits(pixels) {
  const view = new DataView(pixels);
  return Uint16Array.from({ length: pixels.byteLength / 2 }, (_, i) => view.getUint16(2 * i, true));
}

const number = (id) => Number(at(id).value);
const widen = (times, by) => {
  const step = viewer.shape.white / 32;
  viewer.window(number("width") + times * step, number("level") + by * step);
};
const KEYS = {
  ArrowLeft: () => viewer.move(KEYS_MOVE, 0),
  ArrowRight: () => viewer.move(-KEYS_MOVE, 0),
  ArrowUp: () => viewer.move(0, KEYS_MOVE),
  ArrowDown: () => viewer.move(0, -KEYS_MOVE),
  "+": () => viewer.zoom(viewer.view.zoom * 1.25),
  "=": () => viewer.zoom(viewer.view.zoom * 1.25),
  "-": () => viewer.zoom(viewer.view.zoom / 1.25),
  0: () => viewer.reset(),
  "[": () => widen(-1, 0),
  "]": () => widen(1, 0),
  ",": () => widen(0, -1),
  ".": () => widen(0, 1),
  e: () => at("frame").click(),
};

at("viewer").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key] || !viewer.shape) return;
  event.preventDefault();
  KEYS[event.key]();
});
at("viewer").addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = at("canvas").getBoundingClientRect();
  const times = event.deltaY < 0 ? 1.2 : 1 / 1.2;
  viewer.zoom(viewer.view.zoom * times, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}, { passive: false });
at("viewer").addEventListener("pointermove", (event) => {
  if (!(event.buttons & 1) || !viewer.shape) return;
  const { white } = viewer.shape;
  if (event.shiftKey) viewer.window(number("width") + (event.movementX * white) / 512, number("level") - (event.movementY * white) / 512);
  else viewer.move(event.movementX, event.movementY);
});
at("viewer").addEventListener("pointerdown", (event) => {
  if (event.pointerType === "mouse") at("viewer").setPointerCapture(event.pointerId);
});
at("zoom").addEventListener("input", () => viewer.zoom(number("zoom")));
for (const id of ["width", "level", "invert"]) at(id).addEventListener("input", () => viewer.render());
at("frame").addEventListener("input", () => viewer.draw());
at("fit").addEventListener("click", () => viewer.fit());
at("reset").addEventListener("click", () => viewer.reset());
new ResizeObserver(() => { if (viewer.view) viewer.draw(); }).observe(at("viewer"));

// --- colours

function colours(light) {
  if (light) document.documentElement.dataset.theme = "light";
  else delete document.documentElement.dataset.theme;
  at("theme").setAttribute("aria-pressed", String(light));
}
at("theme").addEventListener("click", () => colours(at("theme").getAttribute("aria-pressed") !== "true"));

// --- begin

began(async () => {
  show(false);
  const found = await fetched("session");
  if (found.reader === null) at("token").focus();
  else await enter(found);
})();
