// The conversation: turns come as whole states, {turn, text, state, answer, before, regions, notice}.
(() => {
  "use strict";
  const { store, shows, follow } = window.inlay;
  if (window.inlay.log) return;
  const WAITS = new Set(["waiting", "writing"]);
  const TAKEN = new Set(["writing", "done"]); // the service has its pictures

  let asked = ""; // the last text, on its way

  const made = (tag, name, text) =>
    Object.assign(document.createElement(tag), { className: name, textContent: text ?? "" });

  function setBusy(isBusy) {
    document.querySelector("#inlay-page").classList.toggle("inlay-busy", isBusy);
    document.querySelector(".inlay-log")?.setAttribute("aria-busy", String(isBusy));
  }

  const box = () => document.querySelector("#inlay-text textarea");

  function setText(text) {
    box().value = text;
    box().dispatchEvent(new Event("input", { bubbles: true })); // gradio's copy follows
  }

  // An answer with its phrases. Spans count code points, as Python does.
  function fill(element, answer, regions) {
    const letters = Array.from(answer);
    const spans = regions.filter((region) => region.span).sort((a, b) => a.span[0] - b.span[0]);
    element.replaceChildren();
    let at = 0;
    for (const region of spans) {
      const [start, end] = region.span;
      if (start < at) continue;
      const phrase = made("span", "inlay-phrase", letters.slice(start, end).join(""));
      shows(phrase, region);
      element.append(letters.slice(at, start).join(""), phrase);
      at = end;
    }
    element.append(letters.slice(at).join(""));
  }

  function note(turn) {
    if (turn.state === "waiting") {
      return turn.before ? `${turn.before} before you …` : "Reading …";
    }
    return turn.notice ?? "";
  }

  function article(log, turn) {
    const found = log.querySelector(`[data-turn="${turn.turn}"]`);
    if (found) return found;
    const element = made("article", "inlay-turn");
    element.dataset.turn = turn.turn;
    element.append(
      made("div", "inlay-pictures"),
      made("p", "inlay-asked", turn.text),
      made("p", "inlay-answer"),
      made("p", "inlay-note"),
    );
    log.append(element);
    return element;
  }

  function update(log, turn) {
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    const isNew = !log.querySelector(`[data-turn="${turn.turn}"]`);
    const element = article(log, turn);
    const wasTaken = TAKEN.has(element.dataset.state);
    if (TAKEN.has(turn.state) && !wasTaken) window.inlay.sent?.(element.firstChild);
    element.dataset.state = turn.state;
    fill(element.querySelector(".inlay-answer"), turn.answer, turn.regions);
    element.querySelector(".inlay-note").textContent = note(turn);
    if (turn.regions.length) store.add(turn.regions, false);
    setBusy(WAITS.has(turn.state));
    if (turn.state === "refused" && !box().value) setText(turn.text);
    if (isAtEnd || isNew) log.scrollTop = log.scrollHeight;
  }

  function clear() {
    document.querySelector(".inlay-log")?.replaceChildren();
    store.clear();
  }

  function log(element, props, watch, hint) {
    const turns = element.querySelector(".inlay-log");
    turns.dataset.hint = hint;
    follow(props, watch, (value) => {
      if (value.turn) update(turns, value);
      else if (value.problem) turns.append(made("p", "inlay-problem", value.problem));
      else {
        clear();
        window.inlay.sent?.();
      }
    });
  }

  // Called with a text on its way to the server.
  function take(text) {
    asked = text;
    setBusy(true);
    setTimeout(() => setText("")); // once the request has been made of it
    return text;
  }

  // The request never came to be answered; gradio has said why.
  function failed() {
    setBusy(false);
    if (!box().value) setText(asked);
  }

  Object.assign(window.inlay, { log, take, failed, clear });
})();
