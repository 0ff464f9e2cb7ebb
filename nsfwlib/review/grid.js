// One page of a review session. State lives in Python: this paints a decision at once and is corrected by the answer.
// Pixels come in messages, never in synced traits, so no saved widget state can hold one. Names are set as text only.

const ACTIONS = [
  ["keep", "k", "✓"],
  ["drop", "d", "✕"],
  ["unsure", "?", "?"],
  ["escalate", "e", "!"],
];
const KEEP = "keep"; // says nothing where no label is shown
const MARK = Object.fromEntries(ACTIONS.map(([name, , mark]) => [name, mark]));
const KEYS = [
  ["1 … 9", "give this class"], ["k", "keep the given label"], ["d", "drop from the data"], ["?", "unsure"],
  ["e", "escalate: hide at once, hand on"], ["space", "reveal large, or hide again"], ["b, held", "a third of the blur"], ["Enter", "accept the section in focus"],
  ["u", "undo"], ["r", "redo"], ["n", "neighbours and near-duplicates beside the picture"], ["c", "a note, or a reason, for the journal"], ["← ↑ → ↓", "move"], ["Shift with arrows", "choose several, for one decision"],
  ["PageUp, PageDown", "turn the page"], ["h", "this help"], ["Esc", "hide, close, dismiss"],
];
const BLIND = { // modes in which no label is shown
  audit: "Which class is it? The label is not shown",
  second: "A second look: which class is it?",
  disagreement: "Two people disagree: which class is it?",
};
const SIGNS = [
  ["grey and amber bar", "how likely the given label is, and the suggested one"],
  ["3 alike", "so many pictures here are near-duplicates of one another"],
  ["two labels", "exact copies lie under two labels: keep says nothing, give a class"],
  ["not taken", "the decision was refused; the line above the pictures says why"],
];
// JupyterLab looks for shortcuts before the page gets the key, from the focused element upwards: it must bear this mark.
const KEEP_KEYS = ["data-lm-suppress-shortcuts", "true"];
const SHARP = Symbol("sharp"); // the revealed picture among those named by path, where a file may be called anything
const DIFFERENCE = 24; // of 255 grey levels: less is what saving a JPEG once more does
const IDLE_SECONDS = 120; // longer than that, nobody was looking at one picture
const GAP = 300; // seconds between two keys that count as a break
const PATIENCE = 4000; // ms without an answer before we say that something is not saved

function make(tag, className = "", text = undefined) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function percent(p) {
  return `${(100 * Math.min(Math.max(p ?? 0, 0), 1)).toFixed(1)}%`;
}

// Object URLs by name (a path, SHARP, or a number in the strip); every one is revoked, so pixels leave the browser with the page.
function pictures() {
  const urls = new Map();
  const drop = (name) => {
    if (urls.has(name)) URL.revokeObjectURL(urls.get(name));
    urls.delete(name);
  };
  return {
    drop,
    get: (name) => urls.get(name),
    put(name, buffer) {
      drop(name);
      urls.set(name, URL.createObjectURL(new Blob([buffer], { type: "image/jpeg" })));
      return urls.get(name);
    },
    clear: () => [...urls.keys()].forEach(drop),
  };
}

function render({ model, el }) {
  const classes = model.get("classes"), blindTitle = BLIND[model.get("mode")], blind = Boolean(blindTitle);
  const actions = ACTIONS.filter(([action]) => !blind || action !== KEEP);
  const shown = pictures();
  const id = `nsfw-${Math.random().toString(36).slice(2)}`;
  const sender = `${Date.now()}-${Math.random()}`; // with seq it tells Python in which order we sent
  const pending = new Map(); // path, or "" for the page -> [number of its last message, when]
  const later = []; // keys typed while an undo is on its way
  const refused = new Map(); // path -> why a decision on it was not taken, until that is dismissed or another one is
  let page = null, cells = [], heads = [], cur = 0, anchor = 0, held = false, seq = 0, waiting = false, atEnd = false, wanted = null, since = performance.now(), unbroken = 0;

  // --- the parts ---
  const root = make("div", "nsfw-review");
  const head = make("div", "nsfw-head"), title = make("div", "nsfw-title"), facts = make("div", "nsfw-facts");
  const grid = make("div", "nsfw-grid"), side = make("div", "nsfw-side"), strip = make("div", "nsfw-strip");
  const foot = make("div", "nsfw-foot"), status = make("div", "nsfw-status"), help = make("div", "nsfw-help");
  const notice = make("div", "nsfw-notice"), pause = make("div", "nsfw-notice nsfw-pause");
  grid.tabIndex = 0;
  grid.setAttribute(...KEEP_KEYS);
  grid.setAttribute("role", "listbox");
  grid.setAttribute("aria-multiselectable", "true");
  grid.setAttribute("aria-label", "Pictures of this page. Press h for the keys.");
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");
  notice.setAttribute("role", "alert");
  pause.setAttribute("role", "alert");
  strip.setAttribute("aria-label", "Neighbours and near-duplicates");
  help.setAttribute("role", "dialog");
  help.tabIndex = -1; // who clicks into it types on
  help.setAttribute(...KEEP_KEYS);
  help.setAttribute("aria-label", "Keys and guidelines");
  [help, strip, notice, pause].forEach((node) => (node.hidden = true));

  const button = (text, key, run, className = "") => {
    const node = make("button", `nsfw-button ${className}`);
    node.type = "button";
    node.setAttribute(...KEEP_KEYS);
    node.append(make("span", "nsfw-word", text), make("kbd", "", key));
    node.addEventListener("click", () => {
      run();
      grid.focus({ preventScroll: true });
    });
    return node;
  };

  // --- talking to Python ---
  const send = (op, more = {}) => {
    seq += 1;
    if (!["reveal", "details", "less", "still"].includes(op)) root.dataset.pending = "?";
    try {
      model.send({ op, sender, seq, ...more });
    } catch (error) {
      alarm(`Not saved: ${error}. Run this cell again.`, "unsaved");
    }
    return seq;
  };
  const alarm = (text, kind = "") => {
    notice.hidden = !text;
    notice.firstChild.textContent = text;
    notice.dataset.kind = kind;
    keepInView(); // it moves what is below
  };
  const tellRefused = () => {
    const reasons = [...refused.values()];
    alarm(reasons.length ? `${reasons.length} not taken. ${reasons.at(-1)}` : "", "refused");
    page?.rows.forEach((_, i) => paint(i));
  };
  const dismiss = () => {
    refused.clear();
    tellRefused();
  };
  const watch = setInterval(() => {
    const oldest = Math.min(...[...pending.values()].map(([, at]) => at));
    if (performance.now() - oldest > PATIENCE) {
      alarm(`${pending.size} not saved yet: the kernel does not answer. If it was restarted, run the parameters, the imports and this cell again.`, "unsaved");
      send("still"); // Python holds what overtook a message; this lets it give up a lost one
    }
  }, 1000);
  const secondsSpent = () => {
    const spent = (performance.now() - since) / 1000, minutes = model.get("break_minutes");
    since = performance.now();
    unbroken = spent > GAP ? 0 : unbroken + spent;
    if (minutes && unbroken >= 60 * minutes) {
      conceal();
      pause.hidden = false;
      pause.firstChild.textContent = `${Math.round(unbroken / 60)} minutes without a break. Look at something else?`;
      unbroken = 0;
    }
    return Math.round(Math.min(spent, IDLE_SECONDS) * 1000) / 1000;
  };

  // --- painting ---
  const row = () => page?.rows[cur];
  const isShown = (r) => !r.note && r.decision !== "escalate";
  const words = (r) => (r.decision ? `${MARK[r.decision] ?? "→"} ${r.decision}` : "");
  const pair = (r) => {
    if (blind) return r.about; // what two people answered, or nothing
    if (!r.given) return r.suggested && `${r.suggested}${r.sure == null ? "" : `${r.probs ? "" : ", score"} ${r.sure.toFixed(2)}`}`;
    return r.suggested && r.suggested !== r.given ? `${r.given} → ${r.suggested}` : r.given;
  };
  const spoken = (r) => {
    if (blind) return r.about ? `called ${r.about.replace(" / ", " and ")}` : "label not shown";
    return `filed under ${r.given || "no label that is shown"}${r.suggested ? `, might be ${r.suggested}` : ""}`;
  };
  const remark = (r) => (r.conflict && !blind ? "two labels" : r.alike > 1 ? `${r.alike} alike` : "");
  const counted = (part) => `${part.rows.toLocaleString("en")} picture${part.rows === 1 ? "" : "s"}`;
  const factsOf = (part) => counted(part) + (blind || part.drawn || !part.given ? "" : ` · about ${part.wrong.toFixed(1)} wrong`);
  const titleOf = (part) => {
    if (blind) return [[blindTitle, true]];
    if (part.drawn) return [["Drawn at random: is the label right?", true]];
    const likely = part.default === "keep" ? ", perhaps " : ", looks like ";
    const suggested = part.suggested && part.suggested !== part.given ? [[likely, false], [part.suggested, true]] : [];
    return [["Filed under ", false], [part.given || "no label", true], ...suggested];
  };

  const paint = (i) => {
    const r = page.rows[i], cell = cells[i];
    cell.dataset.decision = r.decision ? (MARK[r.decision] ? r.decision : "relabel") : "";
    const why = refused.get(r.path);
    cell.classList.toggle("nsfw-pending", pending.has(r.path));
    cell.classList.toggle("nsfw-refused", Boolean(why));
    cell.title = why ?? "";
    cell.querySelector(".nsfw-badge").textContent = words(r);
    cell.querySelector(".nsfw-remark").textContent = why ? "not taken" : remark(r);
    cell.setAttribute("aria-label", [`Picture ${i + 1} of ${cells.length}, ${spoken(r)}`,
      r.decision || "undecided", r.note, remark(r), why].filter(Boolean).join(", "));
    if (r.decision === "escalate") {
      page.rows.forEach((other, j) => {
        if (other === r || other.group === r.group) hide(j);
      });
    }
    if (i === cur) paintSide();
  };
  const hide = (i, why = "escalated") => {
    if (i === cur) conceal();
    page.rows[i].note ||= why;
    shown.drop(page.rows[i].path);
    const picture = cells[i].querySelector(".nsfw-picture");
    picture.replaceChildren(make("span", "nsfw-none", page.rows[i].note), picture.lastChild);
  };

  const paintSide = () => {
    const r = row();
    const source = r && (shown.get(SHARP) ?? shown.get(r.path));
    if (source) {
      const img = make("img");
      img.src = source;
      img.alt = "";
      large.replaceChildren(img);
    } else large.replaceChildren(make("span", "nsfw-none", r?.note || "not shown"));
    large.classList.remove("nsfw-compared");
    large.classList.toggle("nsfw-revealed", Boolean(r && shown.get(SHARP)));
    name.textContent = r ? r.name : "";
    name.title = r ? r.name : "";
    classButtons.forEach((node, i) => {
      node.style.setProperty("--p", percent(r?.probs?.[i]));
      node.lastChild.previousSibling.textContent = r?.probs ? r.probs[i].toFixed(2) : "";
      node.dataset.is = !r ? "" : classes[i] === r.given ? "given" : classes[i] === r.suggested ? "suggested" : "";
      node.setAttribute("aria-pressed", String(r?.decision === classes[i]));
    });
    actionButtons.forEach((node, i) => node.setAttribute("aria-pressed", String(r?.decision === actions[i][0])));
  };

  const section = () => page.sections[row()?.section];
  const members = (number = row()?.section) => page.rows.filter((r) => r.section === number);
  const offer = (number, what) => {
    const open = members(number).filter((r) => !r.decision && isShown(r)).length, way = page.sections[number].default;
    return open ? `Accept${what}: ${way === "keep" ? `keep ${open}` : `${open} as ${way}`}` : "";
  };
  const paintHead = () => {
    const part = page && section(), nothing = page ? "Nothing to review" : "Loading …";
    title.replaceChildren(...(part ? titleOf(part) : [[nothing, true]]).map(([text, strong]) => make(strong ? "b" : "span", "", text)));
    facts.textContent = part ? `page ${(part.page + 1).toLocaleString("en")} of ${part.of.toLocaleString("en")} · ${factsOf(part)}` : "";
    accept.disabled = !part;
    accept.firstChild.textContent = blind || !part ? "Go on" : offer(row().section, " page") || "Page done, go on";
    heads.forEach((node, number) => {
      node.classList.toggle("nsfw-in", number === row()?.section);
      node.lastChild.firstChild.textContent = offer(number, "") || "done";
    });
  };

  const say = (text) => {
    status.textContent = text;
  };

  // --- moving and revealing ---
  const lessBlur = () => {
    if (!held && page && !waiting) send("less");
    held = true;
  };
  const fullBlur = () => {
    if (!held) return;
    held = false;
    cells.forEach((cell, i) => {
      shown.drop(-1 - i);
      const img = cell.querySelector("img"), blurred = shown.get(page.rows[i].path);
      if (img && blurred && !cell.classList.contains("nsfw-revealed")) img.src = blurred;
    });
  };
  const showLess = (message, buffers) => {
    message.paths.forEach((path, n) => {
      const i = page.rows.findIndex((r) => r.path === path), img = cells[i]?.querySelector("img");
      if (held && img && buffers[n].byteLength && i !== cells.findIndex((c) => c.classList.contains("nsfw-revealed"))) {
        img.src = shown.put(-1 - i, buffers[n]); // numbers from 0 on are of the strip
      }
    });
  };
  const conceal = () => {
    wanted = null;
    if (!shown.get(SHARP)) return;
    shown.drop(SHARP);
    const cell = cells[cur], img = cell?.querySelector("img"), blurred = shown.get(row().path);
    cell?.classList.remove("nsfw-revealed");
    if (img && blurred) img.src = blurred;
    paintSide();
  };
  const keepInView = () => { // of what is too high for the window, the last
    if (grid.contains(document.activeElement)) [root, body, cells[cur]].forEach((node) => node?.scrollIntoView({ block: "nearest" }));
  };
  const chosen = () => cells.map((_, i) => i).filter((i) => (i - anchor) * (i - cur) <= 0); // from the anchor to here
  const select = (i, extend = false) => {
    if (!page || i < 0 || i >= cells.length) return;
    if (i !== cur) {
      conceal();
      closeStrip();
      remarkBox.value = "";
    }
    cur = i;
    atEnd = false;
    if (!extend) anchor = i;
    const all = new Set(chosen());
    cells.forEach((cell, j) => {
      cell.setAttribute("aria-selected", String(all.has(j)));
      cell.classList.toggle("nsfw-current", j === cur);
    });
    grid.setAttribute("aria-activedescendant", cells[cur].id);
    keepInView();
    paintSide();
    paintHead();
  };
  const reveal = () => {
    if (!row() || waiting) return;
    if (wanted === row().path) return conceal();
    if (!isShown(row())) return say("This picture is not shown.");
    wanted = row().path;
    send("reveal", { path: wanted });
  };
  const closeStrip = () => {
    strip.hidden = true;
    strip.replaceChildren();
    (strip.urls ?? []).forEach((name) => shown.drop(name));
  };
  const details = () => {
    if (!row() || waiting) return;
    if (!strip.hidden) return closeStrip();
    send("details", { path: row().path });
  };
  const below = (step) => { // the nearest picture of the next row, or of the one above, whatever heads lie between
    const { offsetTop: top, offsetLeft: left, offsetHeight: height } = cells[cur];
    const down = (cell) => (cell.offsetTop - top) * step, far = (cell) => Math.abs(cell.offsetLeft - left);
    const rows = cells.filter((cell) => down(cell) > height / 2);
    const next = Math.min(...rows.map(down)) + height / 2;
    return cells.indexOf(rows.filter((cell) => down(cell) < next).sort((one, other) => far(one) - far(other))[0]);
  };
  const toggleHelp = () => {
    help.hidden = !help.hidden;
    grid.focus({ preventScroll: true });
  };

  // --- deciding ---
  const decide = (decision) => {
    if (!row() || waiting) return;
    if (atEnd && decision !== "escalate") return say(`That was the last picture here: Enter goes on, u takes back ${row().decision}.`);
    const some = chosen(), last = some.at(-1), [path, ...also] = some.map((i) => page.rows[i].path);
    if (notice.dataset.kind !== "refused") alarm("");
    if (some.filter((i) => refused.delete(page.rows[i].path)).length) tellRefused();
    const sent = [send("decide", { path, also, decision, seconds: secondsSpent() }), performance.now()];
    some.forEach((i) => {
      page.rows[i].decision = decision;
      pending.set(page.rows[i].path, sent);
      paint(i);
    });
    paintHead();
    say(`${also.length ? `${some.length} pictures` : `Picture ${last + 1}`}: ${decision}`);
    select(Math.min(last + 1, cells.length - 1));
    atEnd = last + 1 === cells.length; // else the next key, meant for a next picture, would overwrite this one
  };
  const acceptPage = (chosenSection) => {
    if (!row() || waiting) return;
    if (blind) return turn(1);
    conceal();
    const which = chosenSection ?? row().section;
    const part = page.sections[which], rows = members(which), last = page.rows.indexOf(rows.at(-1));
    const skip = rows.filter((r) => !isShown(r)).map((r) => r.path);
    const number = send("accept", { page: part.page, skip, seconds: secondsSpent() });
    page.rows.forEach((r, i) => {
      if (r.section !== which || r.decision || !isShown(r)) return;
      r.decision = part.default;
      pending.set(r.path, [number, performance.now()]);
      paint(i);
    });
    say(`Accepted: ${part.default}`);
    if (which !== row().section) paintHead();
    else if (last + 1 < cells.length) select(last + 1);
    else turn(1);
  };
  const turn = (step) => {
    if (!page || waiting) return;
    conceal();
    waiting = true;
    pending.set("", [send("go", { step }), performance.now()]);
  };
  const takeBack = (op) => {
    if (!page || waiting) return;
    conceal();
    waiting = "undo"; // what is typed next is meant for the picture that comes back
    pending.set("", [send(op), performance.now()]);
  };
  const goOn = () => {
    waiting = false;
    while (later.length && !waiting) later.shift()();
  };

  // --- keys ---
  const handlers = {
    ArrowRight: ({ shiftKey }) => select(cur + 1, shiftKey), ArrowLeft: ({ shiftKey }) => select(cur - 1, shiftKey),
    ArrowDown: ({ shiftKey }) => select(below(1), shiftKey), ArrowUp: ({ shiftKey }) => select(below(-1), shiftKey),
    Home: ({ shiftKey }) => select(0, shiftKey), End: ({ shiftKey }) => select(cells.length - 1, shiftKey),
    PageDown: () => turn(1), PageUp: () => turn(-1),
    Enter: () => acceptPage(), " ": reveal, b: lessBlur, n: details, u: () => takeBack("undo"), r: () => takeBack("redo"), h: toggleHelp, c: () => remarkBox.focus(),
    Escape: () => {
      if (document.activeElement !== grid) grid.focus({ preventScroll: true }); // it is about to be hidden
      help.hidden = true;
      dismiss();
      closeStrip();
      conceal();
      paintSide();
    },
  };
  actions.forEach(([action, key]) => (handlers[key] = () => decide(action)));
  const digit = (event) => {
    const typed = /^[1-9]$/.exec(event.key)?.[0] ?? (!event.shiftKey && /^Digit([1-9])$/.exec(event.code)?.[1]);
    return typed && classes[typed - 1] !== undefined ? () => decide(classes[typed - 1]) : undefined;
  };
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    event.stopPropagation(); // no letter typed here may reach the notebook's own shortcuts
    if (event.target === remarkBox && event.key !== "Escape") return event.key === "Enter" && sendNote();
    if (event.target.closest("button") && (event.key === "Enter" || event.key === " ")) return;
    const handler = digit(event) ?? handlers[event.key];
    if (!handler) return;
    event.preventDefault();
    if (waiting === "undo") later.push(() => handler(event));
    else handler(event);
  });
  root.addEventListener("keyup", (event) => event.key === "b" && fullBlur());
  root.addEventListener("focusout", (event) => {
    if (root.contains(event.relatedTarget)) return;
    conceal();
    fullBlur();
  });
  const onVisibility = () => {
    if (document.hidden) conceal();
    since = performance.now();
  };
  document.addEventListener("visibilitychange", onVisibility);

  // --- the side and the head ---
  const frame = make("div", "nsfw-frame"), large = make("div", "nsfw-large"), name = make("div", "nsfw-name");
  large.addEventListener("click", () => {
    reveal();
    grid.focus({ preventScroll: true });
  });
  const classBox = make("div", "nsfw-classes"), actionBox = make("div", "nsfw-actions");
  const classButtons = classes.map((text, i) => {
    const node = button(text, i < 9 ? String(i + 1) : "", () => decide(text), "nsfw-class");
    node.insertBefore(make("span", "nsfw-number"), node.lastChild);
    classBox.append(node);
    return node;
  });
  const actionButtons = actions.map(([action, key]) => button(action, key, () => decide(action), `nsfw-${action}`));
  actionBox.append(...actionButtons, button("reveal", "space", reveal), button("neighbours", "n", details),
    button("undo", "u", () => takeBack("undo")), button("redo", "r", () => takeBack("redo")));
  const accept = button("Accept page", "Enter", () => acceptPage(), "nsfw-primary");
  const turns = make("div", "nsfw-turns");
  turns.append(button("‹", "", () => turn(-1), "nsfw-turn"), button("›", "", () => turn(1), "nsfw-turn"), accept);
  turns.children[0].setAttribute("aria-label", "Previous page");
  turns.children[1].setAttribute("aria-label", "Next page");
  const titles = make("div");
  titles.append(title, facts);
  head.append(titles, turns);
  frame.append(large);
  const remarkBox = make("input", "nsfw-note"), reasons = make("datalist");
  reasons.id = `${id}-reasons`;
  reasons.append(...model.get("reasons").map((reason) => Object.assign(make("option"), { value: reason })));
  remarkBox.setAttribute("list", reasons.id);
  remarkBox.setAttribute("aria-label", "A note on this picture, for the journal");
  remarkBox.setAttribute(...KEEP_KEYS);
  remarkBox.placeholder = "note (c), Enter";
  const sendNote = () => {
    if (row() && remarkBox.value.trim()) send("note", { path: row().path, text: remarkBox.value });
    remarkBox.value = "";
    grid.focus({ preventScroll: true });
  };
  side.append(frame, name, classBox, actionBox, remarkBox, reasons);
  foot.append(status, button("keys and guidelines", "h", toggleHelp, "nsfw-quiet"));
  const keyList = make("dl");
  const blindKeys = { k: "", Enter: "turn the page", n: "" }; // what these say where no label is shown
  KEYS.map(([key, meaning]) => [key, blind ? blindKeys[key] ?? meaning : meaning]).filter(([, meaning]) => meaning)
    .concat(blind ? [] : SIGNS).forEach(([key, meaning]) => keyList.append(make("dt", "", key), make("dd", "", meaning)));
  const guide = make("div", "nsfw-guide");
  guide.innerHTML = model.get("guidelines"); // rendered from Markdown in Python, raw HTML escaped there
  help.append(keyList, guide, button("close", "Esc", toggleHelp, "nsfw-quiet"));
  const body = make("div", "nsfw-body");
  body.append(grid, strip, side);
  notice.append(make("span"), button("dismiss", "Esc", dismiss, "nsfw-quiet"));
  pause.append(make("span"), button("carry on", "", () => (pause.hidden = true), "nsfw-quiet"));
  root.append(pause, notice, head, body, foot, help);

  // --- a page arrives ---
  const thumbnail = (key, buffer, note) => {
    const box = make("div", "nsfw-picture");
    if (buffer?.byteLength) {
      const img = make("img");
      img.src = shown.put(key, buffer);
      img.alt = "";
      img.draggable = false;
      box.append(img);
    } else box.append(make("span", "nsfw-none", note || "not shown"));
    return box;
  };
  const makeCell = (r, i, buffer) => {
    const cell = make("div", "nsfw-cell");
    cell.id = `${id}-${i}`;
    cell.setAttribute("role", "option");
    const odds = make("div", "nsfw-odds");
    if (r.suggested && r.p_given !== null) {
      odds.append(make("i", "nsfw-p-given"), make("i", "nsfw-p-suggested"));
      odds.children[0].style.width = percent(r.p_given);
      odds.children[1].style.width = percent(r.p_suggested);
      odds.title = `${r.given} ${r.p_given.toFixed(2)}, ${r.suggested} ${r.p_suggested.toFixed(2)}`;
    }
    const caption = make("div", "nsfw-caption");
    caption.append(make("span", "nsfw-words", pair(r)), make("span", "nsfw-remark", remark(r)));
    const picture = thumbnail(r.path, buffer, r.note);
    picture.append(make("span", "nsfw-badge"));
    cell.append(picture, odds, caption);
    cell.addEventListener("click", ({ shiftKey }) => {
      select(i, shiftKey);
      grid.focus({ preventScroll: true });
    });
    cell.addEventListener("dblclick", reveal);
    return cell;
  };
  const makeHead = (part, number) => {
    const node = make("div", "nsfw-section"), text = make("span");
    text.append(make("b", "", part.drawn ? "drawn at random" : pair(part)), make("span", "nsfw-facts", factsOf(part)));
    node.append(text, button("Accept", "", () => acceptPage(number)));
    node.lastChild.tabIndex = -1; // Enter does it for the section in focus
    node.setAttribute("role", "presentation");
    return node;
  };
  const build = (message, buffers) => {
    held = false;
    shown.clear();
    closeStrip();
    const undo = waiting === "undo" && pending.get("");
    pending.clear();
    if (undo) pending.set("", undo); // its answer follows the page
    wanted = null;
    waiting &&= undo && "undo";
    since = performance.now();
    page = message;
    cells = page.rows.map((r, i) => makeCell(r, i, buffers[i]));
    heads = page.sections.length > 1 && !blind ? page.sections.map(makeHead) : [];
    grid.replaceChildren(...page.sections.map((part, number) => {
      const group = make("div", "nsfw-group"), inside = cells.filter((_, i) => page.rows[i].section === number);
      group.setAttribute("role", "group");
      group.setAttribute("aria-label", factsOf(part));
      group.style.setProperty("--n", heads.length ? inside.length : 99);
      group.append(...heads.slice(number, number + 1), ...inside);
      return group;
    }));
    grid.style.setProperty("--cell", cells.length > 12 ? "108px" : "148px");
    cur = anchor = 0;
    tellRefused();
    page.rows.forEach((_, i) => paint(i));
    if (cells.length) select(Math.min(message.focus, cells.length - 1));
    else paintHead();
    paintSide();
    root.dataset.page = String(page.page);
    if (!waiting) root.dataset.pending = "0";
  };

  // --- answers ---
  const settle = (message) => {
    if ((pending.get("")?.[0] ?? 0) <= message.seq) pending.delete("");
    page.rows.forEach((r, i) => {
      const [number] = pending.get(r.path) ?? [0];
      if (number > message.seq || !(r.path in message.decisions)) return; // a later key is still on its way
      const changed = pending.delete(r.path) || r.decision !== message.decisions[r.path];
      const why = message.notes[r.path], wasHidden = r.decision === "escalate" || r.hidden;
      r.decision = message.decisions[r.path];
      r.hidden = why;
      if (why) hide(i, why); // decided into a class that is not shown, or escalated by somebody else
      else if (wasHidden) send("open");
      if (changed) paint(i);
    });
    if (!pending.size && notice.dataset.kind === "unsaved") alarm("");
    if (message.text) say(message.text);
    paintHead();
    root.dataset.pending = String(pending.size);
    if (waiting === "undo" && !pending.has("")) goOn();
  };
  const showSharp = (message, buffer) => {
    const img = cells[cur]?.querySelector("img");
    if (!img || wanted !== message.path || row().path !== message.path) return; // left already
    img.src = shown.put(SHARP, buffer);
    cells[cur].classList.add("nsfw-revealed");
    paintSide();
  };
  const showStrip = (message, buffers) => {
    if (row()?.path !== message.path) return;
    closeStrip();
    strip.urls = message.rows.map((_, i) => i);
    message.rows.forEach((r, i) => {
      const item = make("figure", "nsfw-item");
      item.append(thumbnail(i, buffers[i], r.note), make("figcaption", "", r.label), make("small", "", r.why));
      item.tabIndex = -1;
      item.setAttribute(...KEEP_KEYS);
      item.title = "Show beside the picture";
      item.addEventListener("click", () => compare(i));
      strip.append(item);
    });
    const nothing = blind ? "Not shown here: they would give the label away." : "No neighbours or near-duplicates known.";
    if (!message.rows.length) strip.append(make("span", "nsfw-none", nothing));
    strip.hidden = false;
  };
  const compare = async (number) => { // both as blurred as they are shown, and where they differ
    const sources = [shown.get(row()?.path), shown.get(number)];
    if (!sources.every(Boolean)) return;
    const images = sources.map((src) => Object.assign(make("img"), { src, alt: "" })), canvas = make("canvas");
    await Promise.all(images.map((image) => image.decode()));
    if (sources[1] !== shown.get(number)) return; // left already
    const { naturalWidth: width, naturalHeight: height } = images[0];
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const [one, other] = images.map((image) => {
      context.drawImage(image, 0, 0, width, height);
      return context.getImageData(0, 0, width, height);
    });
    for (let i = 0; i < one.data.length; i += 4) {
      const differs = Math.max(...[0, 1, 2].map((c) => Math.abs(one.data[i + c] - other.data[i + c]))) > DIFFERENCE;
      one.data.set(differs ? [200, 80, 10] : [0, 1, 2].map((c) => 128 + one.data[i + c] / 2), i);
    }
    context.putImageData(one, 0, 0);
    large.replaceChildren(...[...images, canvas].map((node, i) => {
      const part = make("figure", "nsfw-side-by-side");
      part.append(node, make("figcaption", "", ["this picture", "the other", "where they differ"][i]));
      return part;
    }));
    large.classList.add("nsfw-compared");
  };
  const onMessage = (message, buffers) => {
    if (message.t === "page") build(message, buffers);
    else if (message.t === "problem") {
      waiting = atEnd = false; // whoever was refused may say it once more
      message.paths.forEach((path) => refused.set(path, message.text));
      if (message.paths.length) tellRefused();
      else alarm(message.text);
      say(message.paths.length ? "not taken" : "");
      later.length = 0;
    } else if (!page) return;
    else if (message.t === "state") settle(message);
    else if (message.t === "reveal") showSharp(message, buffers[0]);
    else if (message.t === "less") showLess(message, buffers);
    else if (message.t === "details") showStrip(message, buffers);
  };
  model.on("msg:custom", onMessage);
  el.append(root);
  paintHead();
  send("open");
  return () => {
    clearInterval(watch);
    shown.clear();
    document.removeEventListener("visibilitychange", onVisibility);
    model.off("msg:custom", onMessage);
  };
}

export default { render };
