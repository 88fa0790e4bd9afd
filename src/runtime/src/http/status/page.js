"use strict";
// Everything that is shown is asked for with the key that was typed in, from the origin that this page came from, and
// is put into the page as text, never as markup: no bundle's name and no model's answer can become part of the page.
(() => {
  const STORED_KEY = "ampoule-key";
  const POLL_MILLISECONDS = 2000;
  const CHART_POINTS = 61;
  const DAY_SECONDS = 86400;

  const byId = (id) => document.getElementById(id);
  const show = (id, visible) => { byId(id).hidden = !visible; };
  const write = (id, text) => { byId(id).textContent = text; };
  const whole = (number) => Math.round(number).toLocaleString("en");

  // The session's storage belongs to this tab alone and ends with it; where it is switched off, memory has to do.
  let key = null;
  try { key = sessionStorage.getItem(STORED_KEY); } catch { /* It is switched off. */ }
  let model = null;
  let earlier = null;
  let timer = null;
  let polling = false;
  let rates = [];
  let conversation = [];
  let asking = null;

  function remember(value) {
    key = value;
    try {
      if (value === null) sessionStorage.removeItem(STORED_KEY); else sessionStorage.setItem(STORED_KEY, value);
    } catch { /* It is switched off. */ }
  }

  function request(path, options = {}) {
    const headers = { ...options.headers, authorization: `Bearer ${key}` };
    return fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", ...options, headers });
  }

  async function read(path) {
    const response = await request(path);
    if (response.status === 401) throw new Error("401");
    return response.json();
  }

  // Unlocking and locking.

  async function unlock() {
    try {
      const metadata = await read("/v1/metadata");
      model = metadata.model;
      showIdentity(metadata);
      show("unlock", false);
      show("forget", true);
      show("open", true);
      show("refusal", false);
      show("chat", model.kind === "generator");
      show("no-chat", model.kind !== "generator");
      byId("key").value = "";
      poll();
    } catch (error) {
      lock(error.message === "401" ? "This key is not accepted here." : "The appliance does not answer.");
    }
  }

  function lock(reason) {
    clearTimeout(timer);
    if (asking) asking.abort();
    remember(null);
    [model, earlier, rates, conversation] = [null, null, [], []];
    for (const id of ["identity", "health", "talk"]) byId(id).replaceChildren();
    for (const id of ["served", "timing", "peak"]) write(id, "");
    byId("line").setAttribute("points", "");
    document.title = "Ampoule";
    showState("locked");
    show("open", false);
    show("forget", false);
    show("unlock", true);
    write("refusal", reason);
    show("refusal", reason !== "");
  }

  function showState(word) {
    byId("state").dataset.state = word;
    write("state", word);
  }

  // What is running.

  function list(id, rows) {
    byId(id).replaceChildren(...rows.flatMap(([name, value, kind = ""]) => {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      text.textContent = value;
      text.className = kind;
      return [term, text];
    }));
  }

  function expiry(expires) {
    if (expires === null) return ["Expires", "never"];
    const days = Math.floor((Date.parse(expires) / 1000 - Date.now() / 1000) / DAY_SECONDS);
    const left = days < 0 ? "it is past" : `in ${whole(days)} days`;
    return ["Expires", `${expires}, ${left}`, days < 2 ? "bad" : days < 14 ? "warn" : ""];
  }

  function showIdentity({ bundle, runtime, config_digest, system_fingerprint, egress }) {
    write("served", `${bundle.name} ${bundle.version}`);
    document.title = `${bundle.name} · Ampoule`;
    const size = `${whole(model.parameters)} parameters, ${model.quantisation}`;
    list("identity", [
      ["Bundle", `${bundle.name} ${bundle.version} (${bundle.channel})`],
      ["Digest", bundle.digest, "code"],
      ["Signed by", bundle.signers.join(", "), "code"],
      ["Counter", `${bundle.counter} in epoch ${bundle.epoch}`],
      ["Issued", bundle.issued_at],
      expiry(bundle.expires),
      ["Trust root", bundle.trust_root, "code"],
      ["Model", `${model.architecture}, ${size}`],
      ["Context", `${whole(model.context_length)} tokens`],
      ["Runtime", `${runtime.name} ${runtime.version}`],
      ["Configuration", config_digest, "code"],
      ["Fingerprint", system_fingerprint, "code"],
      ["Egress", egress],
    ]);
  }

  // How it is doing.

  async function poll() {
    if (polling || key === null) return;
    clearTimeout(timer);
    polling = true;
    try {
      if (!document.hidden) showStatus(await read("/v1/status"));
      show("trouble", false);
    } catch (error) {
      if (error.message === "401") return lock("This key is no longer accepted.");
      showState("unreachable");
      write("trouble", "The appliance does not answer; what is shown is what it said last.");
      show("trouble", true);
    } finally {
      polling = false;
    }
    timer = setTimeout(poll, POLL_MILLISECONDS);
  }

  function duration(seconds) {
    const [days, hours, minutes] = [seconds / DAY_SECONDS, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
    if (days > 0) return `${days} d ${hours} h`;
    return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min ${Math.floor(seconds % 60)} s`;
  }

  function showStatus(status) {
    // An answer that was under way while the key was forgotten.
    if (key === null) return;
    const { requests, tokens, uptime_seconds: uptime } = status;
    showState(status.state);
    // Rates come from the appliance's own clock; a younger appliance is another process, to be counted anew.
    if (earlier !== null && uptime > earlier.uptime_seconds) {
      const rate = (tokens.generated - earlier.tokens.generated) / (uptime - earlier.uptime_seconds);
      rates = [...rates, rate].slice(-CHART_POINTS);
      write("rate", whole(rate));
      draw();
    }
    earlier = status;
    write("running", whole(requests.running));
    write("queued", whole(requests.queued));
    write("held", `${whole(100 * tokens.held / Math.max(tokens.budget, 1))} %`);
    list("health", [
      ["State", status.state],
      ["Up for", duration(uptime)],
      ["Requests ended", whole(requests.ended)],
      ["Failed", whole(requests.failed), requests.failed > 0 ? "warn" : ""],
      ["Given up by clients", whole(requests.cancelled)],
      ["Prompt tokens read", whole(tokens.prompt)],
      ["Tokens generated", whole(tokens.generated)],
      ["Token budget", `${whole(tokens.held)} of ${whole(tokens.budget)} held`],
    ]);
  }

  function draw() {
    const peak = Math.max(...rates, 1);
    const step = 240 / (CHART_POINTS - 1);
    const points = rates.map((rate, n) => `${240 - (rates.length - 1 - n) * step},${54 - 50 * rate / peak}`);
    byId("line").setAttribute("points", points.join(" "));
    write("peak", `Tokens per second over the last two minutes; at most ${whole(Math.max(...rates))}.`);
  }

  // The conversation.

  function turn(role, text) {
    const line = document.createElement("div");
    line.className = `turn ${role}`;
    line.textContent = text;
    byId("talk").append(line);
    return line;
  }

  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let waiting = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("The answer broke off.");
      const parts = (waiting + value).split("\n\n");
      waiting = parts.pop();
      for (const part of parts.filter((part) => part.startsWith("data: "))) {
        if (part === "data: [DONE]") return;
        const event = JSON.parse(part.slice("data: ".length));
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  }

  async function answer(talk, line, signal) {
    const began = performance.now();
    const body = { model: model.id, messages: talk, stream: true, stream_options: { include_usage: true } };
    const headers = { "content-type": "application/json" };
    const options = { method: "POST", headers, body: JSON.stringify(body), signal };
    const response = await request("/v1/chat/completions", options);
    if (!response.ok) throw new Error((await response.json()).error.message);
    let first = null;
    for await (const event of events(response)) {
      const text = event.choices[0]?.delta?.content ?? "";
      if (text !== "") {
        first ??= performance.now();
        line.textContent += text;
      }
      if (event.usage) {
        const ended = performance.now();
        const count = event.usage.completion_tokens;
        first ??= ended;
        const rate = whole(Math.max(count - 1, 0) / Math.max((ended - first) / 1000, 0.001));
        write("timing", `First token after ${whole(first - began)} ms; ${whole(count)} tokens, ${rate} per second.`);
      }
    }
  }

  async function ask(question) {
    asking = new AbortController();
    // Its own: the conversation may be begun anew, or the key forgotten, while the answer is still coming.
    const talk = conversation;
    talk.push({ role: "user", content: question });
    turn("user", question);
    const line = turn("assistant", "");
    write("timing", "");
    byId("send").disabled = true;
    show("stop", true);
    try {
      await answer(talk, line, asking.signal);
    } catch (error) {
      line.classList.add("broken");
      if (talk === conversation) write("timing", error.name === "AbortError" ? "Stopped." : error.message);
    }
    // What was answered is part of the conversation; a question without an answer is not.
    if (line.textContent === "") talk.pop();
    else talk.push({ role: "assistant", content: line.textContent });
    asking = null;
    byId("send").disabled = false;
    show("stop", false);
  }

  byId("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = byId("key").value.trim();
    // Whatever else is in it could not be sent in a header.
    if (!/^[\x21-\x7e]+$/.test(typed)) return lock("This is not an API key.");
    remember(typed);
    unlock();
  });
  byId("forget").addEventListener("click", () => lock(""));
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = byId("question").value.trim();
    if (question === "" || asking !== null) return;
    byId("question").value = "";
    ask(question);
  });
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("ask").requestSubmit();
    }
  });
  byId("stop").addEventListener("click", () => asking?.abort());
  byId("clear").addEventListener("click", () => {
    asking?.abort();
    conversation = [];
    byId("talk").replaceChildren();
    write("timing", "");
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && model !== null) poll();
  });
  if (key !== null) unlock();
})();
