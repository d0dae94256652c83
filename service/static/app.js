// The page at `/`. Every picture that is shown is exactly what was sent or what came back: the browser fits an upload
// to the model's size once, and the service sees that PNG.

const $ = (id) => document.getElementById(id);
const state = { models: [], classifiers: [], given: null, channels: 0, natural: null, adversarial: null, label: null, run: 0, key: "" };

// What the page brings along, the one to open with first: each is of one class, attacked against the classifier that is
// embedded for its data set.
const photo = (name, alt, dataset, label) => ({ at: (kind) => `static/photos/${kind}_${name}.png`, alt: `${alt}, attacked`, dataset, channels: 3, label });
const digit = (label) => ({ at: (kind) => `static/examples/${kind}_${label}.png`, alt: `a ${label}, attacked`, dataset: "mnist", channels: 1, label });
const EXAMPLES = [
  photo("coffee", "a cup of coffee", "photos", 967), photo("chelsea", "a cat", "photos", 285),
  ...[3, 0, 1, 2, 4, 5, 6, 7, 8, 9].map(digit),
  photo("cat", "a small picture of a cat", "cifar10", 3),
];
const BUDGETS = { photos: 4, mnist: 77 }; // grey levels; 8 for everything else, as the purifiers were measured
const LARGEST_BUDGET = { 1: 128, 3: 32 }; // by the number of channels

class Refusal extends Error {}

async function ask(path, options = {}) {
  const key = state.key ? { "X-API-Key": state.key } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, ...key } });
  } catch {
    throw new Refusal("The service cannot be reached. Is it still running?");
  }
  if (answer.status === 401) {
    $("key").hidden = false;
    $("keyed").hidden = true; // a link cannot send it
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Refusal(sentence(body.error || `The service answered ${answer.status}.`));
  }
  return answer;
}

function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}

const model = () => state.models.find((m) => m.name === $("model").value);
const ofDataset = (example) => state.models.find((m) => m.dataset === example.dataset);
const ofChannels = ({ channels }) => state.models.find((m) => m.input_shape[0] === channels || m.input_shape[0] === 0);
const takes = (m, example) => m.dataset === example.dataset || m.input_shape[0] === 0;
const classifier = () => {
  const [channels, height, width] = model().input_shape;
  const fitting = state.classifiers.filter(({ purifiers, input_shape: [c, h, w] }) => purifiers.includes(model().name) && (height
    ? c === channels && h === height && w === width
    : h === state.natural.data.height && w === state.natural.data.width));
  return fitting.length === 1 ? fitting[0] : undefined; // of several the service takes none
};
const named = (label) => classifier().class_names[label] ?? String(label);
const query = (extra = {}) => new URLSearchParams({ model: model().name, ...extra });
const post = (path, blob, accept) =>
  ask(path, { method: "POST", body: blob, headers: { "Content-Type": "image/png", Accept: accept } });

// -- pictures ---------------------------------------------------------------------------------------------------------

async function pixels(blob, width, height, grey) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Refusal("This file is no image that the browser can read. PNG, JPEG, WebP, GIF and BMP work.");
  }
  const canvas = new OffscreenCanvas(width || bitmap.width, height || bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  const side = Math.min(bitmap.width / canvas.width, bitmap.height / canvas.height);
  const [w, h] = [canvas.width * side, canvas.height * side];
  context.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, canvas.width, canvas.height);
  const data = context.getImageData(0, 0, canvas.width, canvas.height);
  if (grey) {
    for (let i = 0; i < data.data.length; i += 4) {
      const [r, g, b] = data.data.subarray(i, i + 3);
      data.data.fill(Math.round(0.299 * r + 0.587 * g + 0.114 * b), i, i + 3);
    }
  }
  context.putImageData(data, 0, 0);
  return { data, blob: await canvas.convertToBlob({ type: "image/png" }) };
}

function draw(canvas, data) {
  canvas.classList.toggle("smooth", data.width > 64); // a small picture shows its pixels
  canvas.width = data.width;
  canvas.height = data.height;
  canvas.getContext("2d").putImageData(data, 0, 0);
}

function noise(natural, adversarial) {
  const out = new ImageData(natural.width, natural.height);
  for (let i = 0; i < out.data.length; i += 1) {
    out.data[i] = i % 4 === 3 ? 255 : 127.5 + 5 * (adversarial.data[i] - natural.data[i]);
  }
  return out;
}

// -- what the service says --------------------------------------------------------------------------------------------

function top(list, prediction, right) {
  list.replaceChildren();
  if (!prediction) return;
  const order = prediction.probabilities.map((p, index) => [p, index]).sort((a, b) => b[0] - a[0]);
  for (const [probability, index] of order.slice(0, 3)) {
    const row = document.createElement("li");
    const name = document.createElement("span");
    const share = document.createElement("span");
    const bar = document.createElement("meter");
    name.textContent = named(index);
    share.textContent = `${(100 * probability).toFixed(1)} %`;
    bar.value = probability;
    bar.setAttribute("aria-label", `probability of ${name.textContent}`);
    if (index === prediction.label && right !== null) name.className = index === right ? "right" : "wrong";
    row.append(name, share, bar);
    list.append(row);
  }
}

function facts(pairs) {
  $("facts").replaceChildren(
    ...pairs.flatMap(([name, value]) => {
      const term = document.createElement("dt");
      const description = document.createElement("dd");
      term.textContent = name;
      description.textContent = value;
      return [term, description];
    }),
  );
}

const stages = (answer) => [...(answer.headers.get("Server-Timing") || "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
const total = (answer) => stages(answer).reduce((sum, [, ms]) => sum + ms, 0);
const timings = (answer) => `${total(answer).toFixed(1)} ms: ${stages(answer).map(([name, ms]) => `${name} ${ms.toFixed(1)}`).join(", ")}`;
const levels = (value) => { const n = 255 * value; return `${n < 10 && n % 1 > 0.05 ? n.toFixed(1) : Math.round(n)} of 255`; };

async function show() {
  const run = (state.run += 1);
  $("attack-box").hidden = !state.attacks || !classifier();
  const sent = state.adversarial || state.natural;
  const [answer, seen, before] = await Promise.all([
    post(`purify?${query()}`, sent.blob, "image/png"),
    classified(sent.blob),
    state.adversarial ? classified(state.natural.blob) : null,
  ]);
  const purified = await pixels(await answer.blob());
  if (run !== state.run) return; // a later choice overtook this one
  const natural = before ? before.unpurified : seen?.unpurified;
  const right = state.label ?? natural?.label ?? null;
  draw($("natural").querySelector("canvas"), state.natural.data);
  top($("natural").querySelector("ol"), natural, right);
  $("adversarial").hidden = $("noise").hidden = !state.adversarial;
  if (state.adversarial) {
    draw($("adversarial").querySelector("canvas"), state.adversarial.data);
    draw($("noise").querySelector("canvas"), noise(state.natural.data, state.adversarial.data));
    top($("adversarial").querySelector("ol"), seen?.unpurified, right);
    $("noise-note").textContent = "mid-grey is no change";
  }
  draw($("purified").querySelector("canvas"), purified.data);
  top($("purified").querySelector("ol"), seen, right);
  draw($("before"), sent.data);
  draw($("after"), purified.data);
  slide();
  const values = sent.data.width * sent.data.height * (state.channels || 3);
  facts([
    ["model", answer.headers.get("X-ARN-Model")],
    ["profile", answer.headers.get("X-ARN-Profile")],
    ["changed by at most", levels(Number(answer.headers.get("X-ARN-Residual-Linf")))],
    ["typical change", levels(Number(answer.headers.get("X-ARN-Residual-L2")) / Math.sqrt(values))],
    ["time", timings(answer)],
    ["SHA-256", answer.headers.get("X-ARN-Model-SHA256")],
  ]);
  const url = new URL(`purify?${query()}`, document.baseURI);
  const header = state.key ? ` -H "X-API-Key: $ARN_API_KEY"` : "";
  $("curl").textContent = `curl --data-binary @image.png${header} '${url}' -o purified.png`;
  $("panels").hidden = $("evidence").hidden = false;
  $("status").textContent = verdict(natural, seen, right);
}

async function classified(blob) {
  if (!classifier()) return null;
  return (await post(`classify?${query({ compare: "true" })}`, blob, "application/json")).json();
}

function verdict(natural, seen, right) {
  if (!seen) return "Purified. No classifier for such images is embedded in this service.";
  const [before, after] = [named(seen.unpurified.label), named(seen.label)];
  if (!state.adversarial) return `The classifier says ${before}, and ${after} once purified.`;
  const restored = seen.label === right ? "the right class is back" : "the class is not restored";
  return `Attacked, the classifier says ${before}; purified, ${after}: ${restored}.`;
}

// -- what people do ---------------------------------------------------------------------------------------------------

async function guarded(work) {
  document.body.setAttribute("aria-busy", "true");
  $("error").hidden = true;
  try {
    await work();
  } catch (error) {
    $("error").textContent = error instanceof Refusal ? error.message : `Something went wrong here: ${error.message}`;
    $("error").hidden = false;
  } finally {
    document.body.removeAttribute("aria-busy");
  }
}

async function fitted(blob) {
  const [channels, height, width] = model().input_shape;
  state.channels = channels;
  return pixels(blob, width, height, channels === 1);
}

async function choose(blob, adversarial = null, label = null) {
  if (!model()) throw new Refusal("No purifier is loaded yet. Try again in a moment.");
  const natural = await fitted(blob);
  Object.assign(state, { given: blob, natural, adversarial: adversarial && (await fitted(adversarial)), label });
  $("attack-time").textContent = "";
  await show();
}

function press(button) {
  for (const other of $("examples").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
}

function setBudget(levels) {
  $("eps").value = levels;
  $("eps-value").textContent = `${levels} of 255`;
}

function slide() {
  $("after").style.clipPath = `inset(0 0 0 ${$("slider").value}%)`;
}

async function start() {
  const answer = await (await ask("models")).json();
  Object.assign(state, { models: answer.purifiers, classifiers: answer.classifiers });
  $("model").replaceChildren(...state.models.map((m) => new Option(m.profile ? `${m.name} (${m.profile})` : m.name, m.name)));
  fitControls();
  state.attacks = answer.demo_attacks;
  const own = EXAMPLES.filter(ofDataset);
  const examples = own.length ? own : EXAMPLES.filter(ofChannels);
  $("examples").replaceChildren();
  $("examples-label").hidden = !examples.length;
  for (const shown of examples) {
    const [item, button, image] = ["li", "button", "img"].map((tag) => document.createElement(tag));
    image.src = shown.at("adversarial");
    image.classList.toggle("smooth", shown.dataset === "photos");
    image.alt = shown.alt;
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(image);
    button.addEventListener("click", () => guarded(() => example(button, shown)));
    item.append(button);
    $("examples").append(item);
  }
  if (examples.length) await example($("examples").querySelector("button"), examples[0]);
  else $("status").textContent = "Choose an image.";
}

async function example(button, shown) {
  const { at, label } = shown;
  press(button);
  if (!takes(model(), shown)) {
    $("model").value = (ofDataset(shown) ?? ofChannels(shown)).name;
    fitControls();
  }
  const [natural, adversarial] = await Promise.all(
    ["natural", "adversarial"].map(async (kind) => (await ask(at(kind))).blob()),
  );
  await choose(natural, adversarial, label);
}

function fitControls() {
  const [channels, height, width] = model()?.input_shape ?? [0, 0, 0];
  $("eps").max = LARGEST_BUDGET[channels] ?? 128;
  setBudget(BUDGETS[model()?.dataset] ?? 8);
  const look = channels === 1 ? "grey, white on black" : "in colour";
  $("size").textContent = width ? `It is cropped to ${width}x${height} pixels, ${look}.` : "This purifier takes any size.";
}

$("file").addEventListener("change", () => guarded(async () => {
  if ($("file").files.length) { press(null); await choose($("file").files[0]); }
  $("file").value = "";
}));
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      press(null);
      guarded(() => choose(event.dataTransfer.files[0]));
    }
  });
}
$("model").addEventListener("change", () => guarded(async () => {
  fitControls();
  if (!state.natural) return;
  const [channels, height, width] = model().input_shape;
  const { data } = state.natural;
  if (!height || (height === data.height && width === data.width && state.channels === channels)) await show();
  else {
    press(null); // fitted anew, and no longer what was attacked
    await choose(state.given);
  }
}));
$("eps").addEventListener("input", () => setBudget($("eps").value));
$("slider").addEventListener("input", slide);
$("attack").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(async () => {
    const through = $("attack").elements.sees.value === "purifier";
    $("attack-time").textContent = "Attacking.";
    const eps = $("eps").value / 255;
    const answer = await post(`demo/attack?${query({ eps, through_purifier: through })}`, state.natural.blob, "image/png");
    $("attack-time").textContent = `The attack took ${(total(answer) / 1000).toFixed(1)} s.`;
    state.adversarial = await pixels(await answer.blob());
    await show();
    $("results").focus({ preventScroll: true });
  });
});
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = $("key-value").value; // here and nowhere else: a reload forgets it
  $("key-value").value = "";
  $("key").hidden = true;
  guarded(state.natural ? show : start);
});
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    $("copied").textContent = "copied";
  } catch {
    getSelection().selectAllChildren($("curl"));
    $("copied").textContent = "selected: copy it with Ctrl+C";
  }
});
guarded(start);
