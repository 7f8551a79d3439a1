/* Asks for the overview about once a second and shows it. */

const $ = (id) => document.getElementById(id);
const KEY = "lodestar-token";
/** Seconds over which rates and ratios are taken. */
const WINDOW = 60;
const bare = (url) => url.replace(/^https?:\/\//, "");
const TERMS = ["wait", "service", "delay of others", "cache price"];
const STATES = { ready: "\u25cf ready", "not-ready": "\u25cb not ready", draining: "\u25d0 draining", drained: "\u25cc drained" };

let answered = null;
let failures = 0;
let timer = null;

const charts = {
  ttft: new Chart("Time to first token, of the minute before", { text: time, isLog: true, note: "no first tokens in the last minute" }),
  hits: new Chart("Prompt tokens found in caches", { text: share, low: 0, high: 1, note: "no answer with usage yet" }),
  error: new Chart("Predictions of TTFT are off by a factor of", { text: factor, low: 1, note: "this policy has learned nothing yet" }),
  coverage: new Chart("TTFTs in their predicted range, 90 % expected", { text: share, low: 0, high: 1, aim: 0.9, note: "this policy has learned nothing yet" }),
  samples: new Chart("First tokens learned from, since the start", { text: count, low: 0 }),
  finished: new Chart("Attempts that finish", { text: rate, low: 0 }),
  others: new Chart("Attempts that do not", { text: rate, low: 0 }),
  queue: new Chart("Requests at the router", { text: count, low: 0 }),
};
$("charts").append(...Object.values(charts).map((chart) => chart.element));

/** For each look the one a window before, or the first one. */
function earlier(at) {
  let then = 0;
  return at.map((now) => {
    while (at[then + 1] <= now - WINDOW) then += 1;
    return then;
  });
}

function derive(history) {
  const then = earlier(history.at_s);
  const grown = (name) => history[name].map((value, index) => value - history[name][then[index]]);
  const per = (above, below) => above.map((value, index) => (below[index] > 0 ? value / below[index] : null));
  const spans = history.at_s.map((at, index) => at - history.at_s[then[index]]);
  const prompt = grown("prompt_tokens");
  return {
    hits: per(grown("cached_tokens"), prompt),
    predictedHits: per(grown("predicted_cached_tokens"), prompt),
    rates: Object.fromEntries(["finished", "failed", "aborted", "rejected"].map((name) => [name, per(grown(name), spans)])),
    lately: Object.fromEntries(["failed", "aborted", "rejected", "second_attempts"].map((name) => [name, grown(name).at(-1)])),
  };
}

function showCharts(history, derived) {
  const at = history.at_s;
  charts.ttft.show(at, ["p50", "p90", "p99"].map((name) => ({ name, values: history[`ttft_${name}_s`] })));
  charts.hits.show(at, [{ name: "really", values: derived.hits }, { name: "predicted", values: derived.predictedHits }]);
  charts.error.show(at, [{ name: "factor", values: history.error_factor }]);
  charts.coverage.show(at, [{ name: "coverage", values: history.coverage }]);
  charts.samples.show(at, [{ name: "samples", values: history.samples }]);
  const { finished, ...others } = derived.rates;
  charts.finished.show(at, [{ name: "finished", values: finished }]);
  charts.others.show(at, Object.entries(others).map(([name, values]) => ({ name, values })));
  charts.queue.show(at, [{ name: "under way", values: history.under_way }, { name: "waiting", values: history.waiting }]);
}

function tile(name, value, note = "", isBad = false) {
  return html("div", {}, html("dt", {}, name), html("dd", {}, html("span", { class: isBad ? "value bad" : "value" }, value), html("small", {}, note)));
}

function showTiles({ history, learning }, derived) {
  const newest = (name) => history[name].at(-1);
  const { lately } = derived;
  const said = !learning ? "this policy does not learn" : learning.has_stepped_back ? "stepped back: a heuristic decides"
    : learning.trusts_network ? "its network is in use" : "its network is not trusted yet";
  const blind = newest("prompt_tokens") > 0 && newest("cached_tokens") + newest("predicted_cached_tokens") === 0;
  $("tiles").replaceChildren(
    tile("TTFT p50", time(newest("ttft_p50_s")), "last minute"),
    tile("TTFT p90", time(newest("ttft_p90_s")), "last minute"),
    tile("TTFT p99", time(newest("ttft_p99_s")), "last minute"),
    tile("Hit ratio", share(derived.hits.at(-1)), blind ? "none, or engines do not say" : `predicted ${share(derived.predictedHits.at(-1))}`),
    tile("Finished", rate(derived.rates.finished.at(-1)), `${count(newest("finished"))} since the start`),
    tile("Under way", count(newest("under_way")), `${count(newest("waiting"))} waiting`, newest("waiting") > 0),
    tile("Failed", count(lately.failed), `last minute; ${count(newest("failed"))} in all`, lately.failed > 0),
    tile("Tried again", count(lately.second_attempts), `last minute; ${count(newest("second_attempts"))} in all`),
    tile("Aborted", count(lately.aborted), `last minute; ${count(newest("aborted"))} in all`),
    tile("Rejected", count(lately.rejected), `last minute; ${count(newest("rejected"))} in all`, lately.rejected > 0),
    tile("Prediction error", learning && learning.samples > 0 ? factor(learning.error_factor) : NONE,
      learning && learning.samples > 0 ? `${share(learning.coverage)} in range` : "", false),
    tile("Learned from", learning ? count(learning.samples) : NONE, said, Boolean(learning?.has_stepped_back)),
  );
}

/** A bar of parts of `width` units; `parts` are [class, share of 1]. */
function bar(parts, width, label) {
  let from = 0;
  const boxes = parts.map(([name, part]) => {
    const box = svg("rect", { x: from, y: 0, width: Math.max(part, 0) * width, height: 10, class: name });
    from += Math.max(part, 0) * width;
    return box;
  });
  return svg("svg", { viewBox: `0 0 ${width} 10`, width, height: 10, preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("rect", { x: 0, y: 0, width, height: 10, class: "track" }), boxes);
}

function showInstances({ instances, ttft_factors: factors }) {
  const heads = ["Instance", "State", "Under way", "Running", "Queued", "KV cache", "Expected TTFT (fleet: \u00d71)"];
  const row = (instance) => {
    const { metrics, state, url } = instance;
    const kv = metrics?.kv_usage;
    const cells = [
      bare(url), html("span", { class: state === "not-ready" ? "state bad" : "state" }, STATES[state] ?? state), count(instance.requests_under_way),
      count(metrics?.running_requests), count(metrics?.waiting_requests),
      known(kv) ? html("span", { class: "meter" }, bar([["bar", kv]], 90, `KV cache ${share(kv)} full`), html("span", {}, share(kv))) : NONE,
      factor(factors[url]),
    ];
    return html("tr", { role: "row" }, cells.map((cell, index) =>
      html("td", { role: "cell", "data-label": heads[index], class: index === 5 || index === 6 ? "wide" : null }, cell)));
  };
  const table = html("table", { role: "table" },
    html("thead", { role: "rowgroup" }, html("tr", { role: "row" }, heads.map((head) => html("th", { scope: "col", role: "columnheader" }, head)))),
    html("tbody", { role: "rowgroup" }, instances.map(row)));
  $("instances").replaceChildren(instances.length > 0 ? table : html("p", {}, "There is no instance."));
}

function showReasons({ reasons }) {
  const all = Object.entries(reasons).sort((one, other) => other[1] - one[1]);
  const total = all.reduce((sum, [, times]) => sum + times, 0);
  $("reasons").replaceChildren(...all.flatMap(([reason, times]) => [
    html("span", {}, reason), bar([["bar", times / total]], 100, share(times / total)),
    html("span", {}, `${count(times)} \u00b7 ${share(times / total)}`),
  ]), ...(total > 0 ? [] : ["No decision yet."]));
}

function predictionOf(decision) {
  const chosen = decision.candidates.find((candidate) => candidate.chosen);
  return { ttft: chosen?.ttft_s, range: chosen?.ttft_range_s };
}

function came(decision) {
  if (!known(decision.ttft_s)) return decision.outcome ?? "under way";
  const { range } = predictionOf(decision);
  const judged = !range ? "" : decision.ttft_s < range[0] ? ", below range" : decision.ttft_s > range[1] ? ", above range" : ", in range";
  const failed = decision.outcome && decision.outcome !== "finished" ? `, ${decision.outcome}` : "";
  return `${time(decision.ttft_s)}${judged}${failed}`;
}

function candidates(decision) {
  const listed = decision.candidates;
  const total = (terms) => terms.reduce((sum, term) => sum + term, 0);
  const most = Math.max(...listed.map((one) => (one.terms_s ? total(one.terms_s) : 0)), 1e-9);
  const hasTerms = listed.some((one) => one.terms_s);
  const heads = ["Instance", "Score", "Requests", "Cached", ...(hasTerms ? ["TTFT", "Nine in ten", ...TERMS, "", "less for a copy"] : [])];
  const row = (one) => html("tr", { class: one.chosen ? "chosen" : null }, [
    `${bare(one.instance)}${one.chosen ? " \u2190" : ""}`, places(one.score, 3), count(one.requests), count(one.predicted_cached_tokens),
    ...(hasTerms ? [time(one.ttft_s), one.ttft_range_s ? one.ttft_range_s.map(time).join(" to ") : NONE,
      ...(one.terms_s ?? [null, null, null, null]).map(time),
      bar((one.terms_s ?? []).map((term, index) => [`t${index}`, term / most]), 110, ""), time(one.copy_credit_s)] : []),
  ].map((cell) => html("td", {}, cell)));
  const head = (name) => {
    const term = TERMS.indexOf(name);
    return html("th", { scope: "col" }, term < 0 ? null : html("span", { class: `key t${term}`, "aria-hidden": "true" }), name);
  };
  return html("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "candidates" }, html("table", {},
    html("thead", {}, html("tr", {}, heads.map(head))), html("tbody", {}, listed.map(row))));
}

function explanation(decision) {
  const { candidates: listed, candidates_in_all: all } = decision;
  const found = known(decision.cached_tokens) ? `${count(decision.cached_tokens)} were` : "the engine has not said how many were";
  const sentences = [
    `A prompt of ${count(decision.prompt_tokens)} tokens, of which ${count(decision.predicted_cached_tokens)} were expected in the cache of ${bare(decision.instance)}; ${found}.`,
    `Reason: ${decision.reason}, with probability ${places(decision.propensity, 3)}${decision.explored ? ", to learn" : ""}.`,
    decision.second_attempt ? "Another instance had failed before." : "",
    listed.length === 0 ? "This policy compares no candidates." : listed.length < all ? `The best ${listed.length} of ${all} candidates:` : "Candidates, the best one first:",
  ];
  return html("div", { class: "why" }, html("p", {}, sentences.filter(Boolean).join(" ")), listed.length > 0 ? candidates(decision) : null);
}

function entry(decision) {
  const { ttft, range } = predictionOf(decision);
  const expected = !known(ttft) ? "no prediction" : `${time(ttft)}${range ? ` (${range.map(time).join(" to ")})` : ""}`;
  const cell = (label, text) => html("span", {}, html("small", {}, `${label} `), text);
  const details = html("details", {}, html("summary", {},
    html("span", { class: "muted" }, decision.ago_s < 1 ? "now" : `${time(Math.round(decision.ago_s))} ago`), html("span", {}, bare(decision.instance)),
    html("span", {}, `${decision.reason}${decision.second_attempt ? ", again" : ""}`), cell("expected", expected), cell("came", came(decision))));
  // Made when somebody looks.
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(explanation(decision));
  });
  return html("li", { "data-request": decision.request }, details);
}

/** Stands still while somebody reads. */
function showDecisions({ decisions }) {
  const list = $("decisions");
  const isHeld = $("hold").checked || list.querySelector("details[open]") !== null || list.contains(document.activeElement);
  $("held").textContent = isHeld ? "The list stands still while an entry is open or has the focus." : "The newest first. Open one to see why.";
  if (!isHeld) list.replaceChildren(...decisions.map(entry));
}

function show(overview) {
  const { policy, information, version } = overview;
  const aim = policy.objective === undefined ? "" : ` for ${typeof policy.objective === "string" ? policy.objective : JSON.stringify(policy.objective)}`;
  $("policy").textContent = `${policy.name}${aim}${information === "ideal" ? "" : `, information ${information}`} \u00b7 ${version}`;
  const derived = derive(overview.history);
  $("main").hidden = false;
  showTiles(overview, derived);
  showInstances(overview);
  showCharts(overview.history, derived);
  showReasons(overview);
  showDecisions(overview);
}

/** A screen reader hears of changes only. */
function say(state, text) {
  document.body.className = state;
  if ($("said").textContent !== text) $("said").textContent = text;
}

function succeed() {
  [answered, failures] = [Date.now(), 0];
  $("alert").hidden = true;
  say("live", "live");
}

function fail(error) {
  failures += 1;
  const since = answered === null ? "" : ` What is below is from ${new Date(answered).toLocaleTimeString("en-GB")}.`;
  const text = `The router does not answer (${error.message}).${since} Trying again.`;
  if ($("alert").textContent !== text || $("alert").hidden) $("alert").textContent = text;
  $("alert").hidden = false;
  say("down", "not connected");
}

function ask(complaint) {
  sessionStorage.removeItem(KEY);
  $("main").hidden = true;
  $("alert").hidden = true;
  $("ask").hidden = false;
  $("wrong").textContent = complaint;
  say("", "waits for the token");
  $("token").focus();
}

async function poll() {
  clearTimeout(timer);
  const token = sessionStorage.getItem(KEY);
  if (token === null) return ask("");
  try {
    const response = await fetch("admin/overview", {
      headers: { authorization: `Bearer ${token}` }, cache: "no-store", signal: AbortSignal.timeout(10000),
    });
    if (response.status === 401) return ask("That is not the token.");
    if (!response.ok) throw new Error(`it said ${response.status}`);
    const overview = await response.json();
    succeed();
    show(overview);
  } catch (error) {
    fail(error);
  }
  clearTimeout(timer);
  timer = setTimeout(poll, document.hidden ? 10000 : 1000 * Math.min(1 + failures, 5));
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("token").value.trim());
  $("token").value = "";
  $("ask").hidden = true;
  poll();
});

const THEMES = ["system", "light", "dark"];
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Colours: ${theme}`;
  sessionStorage.setItem("lodestar-theme", theme);
}
$("theme").hidden = false;
$("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % 3]));
setTheme(sessionStorage.getItem("lodestar-theme") ?? "system");
document.addEventListener("visibilitychange", () => { if (!document.hidden && $("ask").hidden) poll(); });
addEventListener("resize", () => { if (!$("main").hidden) for (const chart of Object.values(charts)) chart.draw(); });
poll();
