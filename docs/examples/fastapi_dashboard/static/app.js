// One event stream carries the changes of all jobs on the page: browsers open only six connections
// to a server at a time. The ids are in the page's address, so that it can be reloaded and shared.

const MOST_JOBS = 100;
const RETRY_MS = 3000;
const LONGEST_RETRY_MS = 30000;

const SIGNS = {
  succeeded: "✓", failed: "✕", cancelled: "⊘", cancelling: "⊘", running: "●", starting: "●",
  problem: "!", unknown: "?",
};

// What the backend rejects as an id; it would reject the whole stream.
const isInvalidId = (id) => id.length > 500 || /^\.{1,2}$|\p{C}|(?! )\p{Z}/u.test(id);

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const dollars = new Intl.NumberFormat("en", {
  style: "currency", currency: "USD", minimumFractionDigits: 4, maximumFractionDigits: 4,
});

const HINT = byId("hint").textContent;
const jobs = new Map(); // id -> {report, problem, record, element}
let stream = null;
let retry = null;
let failures = 0;
let outage = null; // the `trouble` event that no `status` has ended yet

// ---- jobs on the page

// Returns the ids for which there was no room.
function addJobs(ids) {
  const added = ids.filter((id, index) => !jobs.has(id) && ids.indexOf(id) === index);
  const room = MOST_JOBS - jobs.size;
  for (const id of added.slice(0, room)) {
    const element = byId("job").content.firstElementChild.cloneNode(true);
    const job = { id, report: null, problem: null, record: null, element };
    element.querySelector(".id").textContent = id;
    const remove = element.querySelector(".remove");
    remove.setAttribute("aria-label", `Stop watching ${id}`);
    remove.addEventListener("click", () => removeJobs([id]));
    jobs.set(id, job);
    render(job);
  }
  if (added.length > room) {
    const left = added.length - room;
    hint(`The page watches ${MOST_JOBS} jobs: remove some to watch the other ${number.format(left)}.`, true);
  }
  changed();
  return added.slice(room);
}

function removeJobs(ids) {
  for (const id of ids) {
    jobs.get(id).element.remove();
    jobs.delete(id);
  }
  changed();
}

function changed() {
  const query = new URLSearchParams([...jobs.keys()].map((id) => ["job_id", id]));
  history.replaceState(null, "", jobs.size ? `?${query}` : location.pathname);
  byId("clear").hidden = byId("batch").hidden = jobs.size === 0;
  byId("empty").hidden = jobs.size > 0;
  sortJobs();
  renderBatch();
  renderTrouble();
  connect();
}

// A job is settled when nothing more will come: it has finished, or there is no such job.
const isSettled = ({ report, problem }) => Boolean(report?.is_terminal || (problem && problem.status < 500));
const statusOf = ({ report, problem }) =>
  problem && problem.status < 500 ? "problem" : report?.status ?? "unseen-yet";

// ---- the event stream

function connect() {
  dropRetry();
  stream?.close();
  stream = null;
  const open = [...jobs.values()].filter((job) => !isSettled(job));
  if (open.length === 0) {
    showConnection("idle", jobs.size ? "All finished" : "Nothing to watch");
    return;
  }
  if (byId("connection").dataset.state !== "lost") showConnection("idle", "Connecting…");
  const query = new URLSearchParams(open.map((job) => ["job_id", job.id]));
  stream = new EventSource(`api/job-events?${query}`);
  stream.addEventListener("open", () => {
    failures = 0;
    dropRetry(); // this stream requests all jobs again
    showConnection("live", "Live");
  });
  stream.addEventListener("status", (event) => {
    outage = null;
    take({ report: JSON.parse(event.data), problem: null });
  });
  stream.addEventListener("trouble", (event) => {
    outage = JSON.parse(event.data);
    renderTrouble();
  });
  stream.addEventListener("problem", (event) => take({ problem: JSON.parse(event.data) }));
  stream.addEventListener("error", () => {
    showConnection("lost", "Connection lost, trying again…");
    // The browser reconnects by itself, unless the response was not an event stream.
    if (stream?.readyState === EventSource.CLOSED) {
      connectLater();
      findRefusal(stream);
    }
  });
}

function connectLater() {
  retry ??= setTimeout(connect, Math.min(RETRY_MS * 2 ** failures++, LONGEST_RETRY_MS));
}

function dropRetry() {
  clearTimeout(retry);
  retry = null;
}

// An EventSource does not say why it got no stream. If the backend rejects an id that the page has
// accepted, retries fail until it is removed.
async function findRefusal(refused) {
  const look = new AbortController();
  try {
    const response = await fetch(refused.url, { signal: look.signal });
    if (response.status !== 422) return;
    const { errors } = await response.json();
    if (stream !== refused) return;
    dropRetry();
    hint(errors[0].msg, true);
    showConnection("lost", "Refused: remove the job id that is none");
  } catch {
    // The backend is unavailable; there will be a retry.
  } finally {
    look.abort();
  }
}

function take(change) {
  const job = jobs.get((change.report ?? change.problem).job_id);
  if (!job) return;
  const before = statusOf(job);
  Object.assign(job, change);
  if (job.problem && !isSettled(job)) connectLater(); // this stream has no more events of it
  if (statusOf(job) !== before) {
    if (job.report) readRecord(job);
    if (isSettled(job)) byId("announcement").textContent = `${job.id}: ${describe(job)}`;
    sortJobs();
  }
  render(job);
  renderBatch();
  renderTrouble();
  if ([...jobs.values()].every(isSettled)) connect(); // which closes the stream
}

// ---- the record, which holds what a status does not: rows, tokens, cost, times

async function readRecord(job) {
  if (job.id.includes("/")) return; // it is not a single segment of a path
  const status = statusOf(job);
  let isToBeRepeated;
  try {
    const response = await fetch(`api/jobs/${encodeURIComponent(job.id)}`);
    if (response.ok) {
      job.record = await response.json();
      render(job);
      renderBatch();
    }
    // A record that was requested before the job finished may not show that.
    const isBehind = response.ok && isSettled(job) && !job.record.is_terminal;
    isToBeRepeated = response.status >= 500 || isBehind;
  } catch {
    isToBeRepeated = true; // the network failed
  }
  if (isToBeRepeated) {
    setTimeout(() => {
      if (jobs.get(job.id) === job && statusOf(job) === status) readRecord(job);
    }, RETRY_MS);
  }
}

// ---- rendering; all foreign text goes through textContent

function describe({ report, problem }) {
  if (problem) return problem.status === 404 ? "not found" : problem.title.toLowerCase();
  if (!report) return "waiting";
  return report.status === "unknown" ? report.raw_status.toLowerCase() : report.status;
}

function render(job) {
  const { element, record, problem, report } = job;
  const status = statusOf(job);
  element.className = `job ${status}`;
  const label = element.querySelector(".status");
  label.textContent = describe({ report, problem: status === "problem" && problem });
  label.dataset.sign = SIGNS[status] ?? "○";
  element.querySelector(".name").textContent = [record?.name, record?.model].filter(Boolean).join(" · ");
  list(element.querySelector(".facts"), record ? factsOf(job) : []);
  const trouble = element.querySelector(".trouble");
  trouble.textContent = troubleOf(job);
  trouble.toggleAttribute("data-passing", Boolean(problem) && !isSettled(job));
}

function factsOf(job) {
  const { record } = job;
  return [
    ["Rows", record.num_rows, number.format],
    ["Tokens", record.is_terminal ? record.total_tokens : null, number.format],
    ["Cost", record.is_terminal ? record.job_cost : null, dollars.format],
    ["Expected cost", isSettled(job) ? null : record.cost_estimate, dollars.format],
    ["Time", secondsOf(record), clock],
  ].filter(([, value]) => value != null).map(([name, value, format]) => [name, format(value)]);
}

function secondsOf(record) {
  if (record.duration_seconds != null || !record.datetime_started || record.is_terminal) {
    return record.duration_seconds;
  }
  return Math.max(0, (Date.now() - Date.parse(record.datetime_started)) / 1000);
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// A problem of all unfinished jobs is shown once, and not on each card.
function commonTrouble() {
  const open = [...jobs.values()].filter((job) => !isSettled(job));
  if (open.length === 0) return "";
  if (outage) {
    const since = new Date(outage.since).toLocaleTimeString();
    return `The service has not responded since ${since}. ${outage.detail} The page shows what was known then.`;
  }
  return open.every(({ problem }) => problem) ? `${open[0].problem.detail} Trying again…` : "";
}

function renderTrouble() {
  const banner = byId("trouble");
  const text = commonTrouble();
  if (banner.textContent === text) return;
  banner.textContent = text;
  banner.hidden = !text;
  for (const job of jobs.values()) render(job);
}

function troubleOf(job) {
  const { problem, report, record } = job;
  if (problem && !isSettled(job)) return commonTrouble() ? "" : `${problem.detail} Trying again…`;
  if (problem) return problem.detail;
  if (report?.status !== "failed") return "";
  const { message, additional_context: context } = report.failure ?? record?.failure_reason ?? {};
  return [message ?? "The service gave no reason.", context].filter(Boolean).join(" — ");
}

const isFailure = (job) => ["failed", "problem"].includes(statusOf(job));

function sortJobs() {
  const all = [...jobs.values()];
  const isFirst = byId("failures-first").checked ? isFailure : () => false;
  const sorted = [...all.filter(isFirst), ...all.filter((job) => !isFirst(job))];
  const list = byId("jobs");
  // An element that stays where it is keeps the focus.
  sorted.forEach(({ element }, index) => {
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  });
}

function renderBatch() {
  const all = [...jobs.values()];
  const settled = all.filter(isSettled);
  const count = (...statuses) => all.filter((job) => statuses.includes(statusOf(job))).length;
  byId("finished").textContent = `${settled.length} of ${all.length} finished`;
  document.title = all.length ? `${settled.length}/${all.length} · Sutro jobs` : "Sutro jobs";

  const bar = byId("bar");
  bar.setAttribute("aria-valuenow", settled.length);
  bar.setAttribute("aria-valuemax", all.length);
  for (const status of ["succeeded", "failed", "problem", "cancelled", "rest"]) {
    let part = bar.querySelector(`[data-part="${status}"]`);
    if (!part) {
      part = document.createElement("span");
      part.dataset.part = status;
      if (status !== "rest") part.className = status;
      bar.append(part);
    }
    part.style.flexGrow = status === "rest" ? all.length - settled.length : count(status);
  }

  const problems = {};
  for (const job of all) {
    if (statusOf(job) === "problem") problems[describe(job)] = (problems[describe(job)] ?? 0) + 1;
  }
  const sum = (field) => {
    const values = all.map(({ record }) => record?.is_terminal ? record[field] : null).filter((value) => value != null);
    return values.length ? values.reduce((total, value) => total + value, 0) : null;
  };
  list(byId("totals"), [
    ["Running", count("running"), number.format],
    ["Succeeded", count("succeeded") || null, number.format],
    ["Failed", count("failed") || null, number.format],
    ["Cancelled", count("cancelled") || null, number.format],
    ...Object.entries(problems).map(([name, value]) => [capitalized(name), value, number.format]),
    ["Tokens", sum("total_tokens"), number.format],
    ["Cost", sum("job_cost"), dollars.format],
  ].filter(([, value]) => value != null).map(([name, value, format]) => [name, format(value)]));
}

const capitalized = (word) => word[0].toUpperCase() + word.slice(1);

function list(element, pairs) {
  element.replaceChildren(...pairs.map(([name, value]) => {
    const pair = document.createElement("div");
    pair.append(document.createElement("dt"), document.createElement("dd"));
    pair.firstChild.textContent = name;
    pair.lastChild.textContent = value;
    return pair;
  }));
}

function showConnection(state, text) {
  const element = byId("connection");
  element.dataset.state = state;
  if (element.textContent !== text) element.textContent = text;
}

function hint(text, isBad) {
  byId("hint").textContent = text;
  byId("hint").toggleAttribute("data-bad", isBad);
}

// ---- user actions

byId("add").addEventListener("submit", (event) => {
  event.preventDefault();
  const ids = byId("ids").value.split(/[\s,;]+/).filter(Boolean);
  if (ids.length === 0) {
    byId("ids").focus();
    return;
  }
  const impossible = ids.find(isInvalidId);
  hint(impossible ? `“${impossible}” cannot be a job id.` : HINT, Boolean(impossible));
  if (impossible) return;
  byId("ids").value = addJobs(ids).join("\n");
});

byId("ids").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("add").requestSubmit();
});

byId("clear").addEventListener("click", () => removeJobs([...jobs.keys()]));
byId("failures-first").addEventListener("change", sortJobs);

byId("demo").addEventListener("click", async () => {
  const response = await fetch("demo/jobs", { method: "POST" });
  if (response.ok) addJobs(await response.json());
});

addEventListener("online", connect);
setInterval(() => {
  for (const job of jobs.values()) if (statusOf(job) === "running" && job.record) render(job);
}, 1000);

fetch("settings").then((response) => response.json()).then(({ demo }) => {
  byId("demo").hidden = byId("empty-demo").hidden = !demo;
});
addJobs(new URLSearchParams(location.search).getAll("job_id").filter((id) => id && !isInvalidId(id)));
