// The picture with its masks: click a place, drag a box, or move the cross with the arrow keys.
(() => {
  "use strict";
  const { store, paint, shows, coloured, follow } = window.inlay;
  if (window.inlay.stage) return;
  const LEAST_SIDE = 400; // px: smaller pictures are enlarged, for fine outlines
  const MOST_TAGS = 6; // of more masks only the one under the pointer has its name on the picture
  const DRAG = 6; // px on the screen that make a click a box
  const STEP = 0.02; // of a side, by an arrow key
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  let picture = null; // {url, width, height}; its own size, in px
  let say = () => {};

  function place(canvas, event) {
    const rect = canvas.getBoundingClientRect();
    const share = (value, from, size) => Math.min(Math.max((value - from) / size, 0), 1);
    return [share(event.clientX, rect.left, rect.width), share(event.clientY, rect.top, rect.height)];
  }

  // Shares of the sides in px of the picture.
  const inPicture = ([x, y]) => [
    Math.min(Math.floor(x * picture.width), picture.width - 1),
    Math.min(Math.floor(y * picture.height), picture.height - 1),
  ];

  function outline(box, start, end) {
    box.hidden = false;
    box.style.left = `${100 * Math.min(start[0], end[0])}%`;
    box.style.top = `${100 * Math.min(start[1], end[1])}%`;
    box.style.width = `${100 * Math.abs(start[0] - end[0])}%`;
    box.style.height = `${100 * Math.abs(start[1] - end[1])}%`;
  }

  function pointing(frame, canvas, ask) {
    const box = frame.querySelector(".inlay-box");
    const cross = frame.querySelector(".inlay-cross");
    let start = null;
    let origin = null;
    let at = [0.5, 0.5];
    const isDrag = (event) =>
      Math.hypot(event.clientX - origin[0], event.clientY - origin[1]) > DRAG;
    const end = () => {
      start = null;
      box.hidden = true;
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (!picture || event.button) return;
      canvas.setPointerCapture(event.pointerId);
      [start, origin] = [place(canvas, event), [event.clientX, event.clientY]];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (start && isDrag(event)) outline(box, start, place(canvas, event));
    });
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerup", (event) => {
      if (!start) return;
      const [a, b] = [inPicture(start), inPicture(place(canvas, event))];
      const corners = [0, 1].map((i) => Math.min(a[i], b[i]));
      corners.push(...[0, 1].map((i) => Math.max(a[i], b[i]) + 1));
      ask(isDrag(event) ? corners : a);
      end();
    });
    canvas.addEventListener("keydown", (event) => {
      const move = ARROWS[event.key];
      if (move) at = at.map((value, i) => Math.min(Math.max(value + STEP * move[i], 0), 1));
      else if (event.key !== "Enter" || !picture) return;
      event.preventDefault();
      cross.style.left = `${100 * at[0]}%`;
      cross.style.top = `${100 * at[1]}%`;
      if (!move) ask(inPicture(at));
    });
  }

  function chip(region) {
    const item = document.createElement("li");
    const button = document.createElement("span");
    const score = document.createElement("small");
    button.className = "inlay-chip";
    score.textContent = region.score.toFixed(2);
    button.append(region.phrase, " ", score);
    shows(button, region);
    if (region.source === "description") button.title = "from the model's own description";
    item.append(button);
    return item;
  }

  // Above the mask, and inwards from its side that is farther from the border.
  function tag(region) {
    const element = document.createElement("span");
    const [left, top, right] = region.box;
    const [before, behind] = [left, picture.width - right].map((px) => (100 * px) / picture.width);
    element.className = "inlay-tag";
    element.textContent = `${region.phrase} ${region.score.toFixed(2)}`;
    element.style.top = `max(1.1rem, ${(100 * top) / picture.height}%)`;
    if (before <= behind) element.style.left = `${before}%`;
    else element.style.right = `${behind}%`;
    coloured(element, region);
    return element;
  }

  function save(url, name) {
    const link = Object.assign(document.createElement("a"), { href: url, download: name });
    link.click();
  }

  // What the downloads hold: what is kept on the picture, or else everything.
  const chosen = () => (store.pinned().length ? store.pinned() : store.all());

  function saveMasks() {
    const records = chosen().map(({ phrase, score, rle, box, source }) => {
      return { phrase, score, rle, box, source };
    });
    const blob = new Blob([JSON.stringify(records, null, 2)], { type: "application/json" });
    const url = URL.createObjectURL(blob);
    save(url, "masks.json");
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  function show(element, canvas) {
    const times = Math.max(1, Math.floor(LEAST_SIDE / Math.max(picture.width, picture.height)));
    const shrink = Math.min(1, 1280 / Math.max(picture.width, picture.height));
    canvas.width = Math.max(1, Math.round(picture.width * times * shrink));
    canvas.height = Math.max(1, Math.round(picture.height * times * shrink));
    element.querySelector("img").src = picture.url;
    element.querySelector(".inlay-frame").hidden = false;
    element.querySelector(".inlay-empty").hidden = true;
    element.classList.toggle("is-enlarged", times > 1);
    window.inlay.clear();
    say("");
  }

  function stage(element, props, watch, point, overlay) {
    const canvas = element.querySelector("canvas");
    const chips = element.querySelector(".inlay-chips");
    const tags = element.querySelector(".inlay-tags");
    const saves = element.querySelector(".inlay-saves");
    let listed = "";
    store.onChange(() => {
      const numbers = store.all().map((region) => region.number).join();
      if (numbers !== listed) chips.replaceChildren(...store.all().map(chip));
      listed = numbers;
      saves.hidden = !numbers;
      if (!picture) return;
      paint(canvas, store.shown());
      const isFull = store.shown().length > MOST_TAGS;
      const named = store.shown().filter((r) => r.box && (!isFull || store.isHovered(r)));
      tags.replaceChildren(...named.map(tag));
    });
    canvas.tabIndex = 0;
    pointing(element.querySelector(".inlay-frame"), canvas, (at) => {
      say("Looking …");
      point(at);
    });
    element.querySelector(".inlay-empty").addEventListener("click", window.inlay.choose);
    element.querySelector(".inlay-save-masks").addEventListener("click", saveMasks);
    element.querySelector(".inlay-save-overlay").addEventListener("click", () => {
      overlay(chosen().map((region) => region.number));
    });
    follow(props, watch, (value) => {
      if (value.problem) return say(value.problem, true);
      picture = value.pictures[0];
      show(element, canvas);
    });
  }

  // The line under the picture, and what comes of phrases, clicks and downloads.
  function news(element, props, watch) {
    const line = element.querySelector("p");
    say = (text, isProblem) => {
      line.textContent = text;
      line.classList.toggle("inlay-problem", Boolean(isProblem));
    };
    follow(props, watch, (value) => {
      say(value.problem ?? "", value.problem);
      if (value.region) store.add([value.region], true);
      if (value.file) save(value.file.url, value.file.name);
    });
  }

  // Called with a phrase on its way to the server.
  function look(phrase) {
    say("Looking …");
    return phrase;
  }

  Object.assign(window.inlay, { stage, news, look });
})();
