/**
 * A CartPole client in JavaScript that acts through ONNX. Copy it.
 *
 * The daemon's config.toml has `[export] formats = ["onnx"]`. The client does three things, and never waits for
 * the daemon:
 *
 * 1. takeUp: between episodes, look at state/exports/CURRENT and load the version that it names.
 * 2. choose: ask the graph for the actions' log-probabilities, draw one, note it and the version.
 * 3. deposit: write the whole episode aside in spool/in under a name that starts with ".tmp-", then rename it.
 *
 *     npm install && node cartpole.mjs SPOOL STATE [STEPS_PER_SECOND]
 *
 * After each episode a line of JSON goes to standard output: {"at", "return", "steps", "version"}.
 * The contract is in learnerd/docs/clients.md.
 */
import { createHash, randomUUID } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import * as ort from "onnxruntime-web";

const CLIENT_ID = "cartpole-node";
const ACTIONS = 2;
const MOST_STEPS = 500;
const ALL_ALLOWED = new ort.Tensor("bool", new Uint8Array(ACTIONS).fill(1), [1, ACTIONS]);

ort.env.wasm.numThreads = 1; // a small network is slower on several

/** Take up the version that CURRENT names; keep the one in use when there is no better one. */
async function takeUp(state, policy) {
  const exports = join(state, "exports");
  let name;
  try {
    name = (await readFile(join(exports, "CURRENT"), "utf8")).trim(); // eight digits, such as 00000042
  } catch {
    return policy; // nothing has been exported yet
  }
  if (Number(name) <= policy.version) return policy;
  try {
    const session = await load(join(exports, name));
    await policy.session?.release();
    return { version: Number(name), session };
  } catch (error) {
    console.error(`version ${name} is not usable, keeping the last one: ${error.message}`);
    return policy;
  }
}

/** Read the manifest, check the graph against it, and make it ready to run. */
async function load(folder) {
  const manifest = JSON.parse(await readFile(join(folder, "manifest.json"), "utf8"));
  const graph = await readFile(join(folder, "policy.onnx"));
  const expected = manifest.files["policy.onnx"];
  const digest = createHash("sha256").update(graph).digest("hex");
  if (graph.length !== expected.bytes || digest !== expected.sha256) {
    throw new Error("policy.onnx does not have the size and sha256 that its manifest names");
  }
  return ort.InferenceSession.create(graph, { executionProviders: ["wasm"], logSeverityLevel: 3 });
}

/** Draw an action; its log-probability lets the learner correct for an old version. */
async function choose(policy, obs) {
  let logProbs = new Array(ACTIONS).fill(-Math.log(ACTIONS)); // before the first version: at random
  if (policy.session) {
    const feeds = { obs: new ort.Tensor("float32", obs, [1, obs.length]), mask: ALL_ALLOWED };
    logProbs = (await policy.session.run(feeds, ["log_probs"])).log_probs.data;
  }
  let action = 0;
  for (let left = Math.random() - Math.exp(logProbs[0]); left >= 0 && action < ACTIONS - 1; ) {
    left -= Math.exp(logProbs[++action]);
  }
  return { action, logp: logProbs[action] };
}

/** CartPole (Barto, Sutton & Anderson 1983), as in Gymnasium's CartPole-v1: [x, x', angle, angle']. */
function step([x, speed, angle, turn], action) {
  const [cart, pole, half, dt] = [1.0, 0.1, 0.5, 0.02];
  const force = action === 1 ? 10.0 : -10.0;
  const temp = (force + pole * half * turn ** 2 * Math.sin(angle)) / (cart + pole);
  const inertia = half * (4 / 3 - (pole * Math.cos(angle) ** 2) / (cart + pole));
  const angular = (9.8 * Math.sin(angle) - Math.cos(angle) * temp) / inertia;
  const linear = temp - (pole * half * angular * Math.cos(angle)) / (cart + pole);
  const next = [x + dt * speed, speed + dt * linear, angle + dt * turn, turn + dt * angular];
  return { next, over: Math.abs(next[0]) > 2.4 || Math.abs(next[2]) > (12 * Math.PI) / 180 };
}

/** Play one episode; its lines are a header, one a step, and the end. */
async function play(policy, rate) {
  const header = {
    episode_id: randomUUID(), // any text that is unique for this client
    client_id: CLIENT_ID,
    env_id: "CartPole-v1",
    action_space: { kind: "discrete", n: ACTIONS },
    policy_version: policy.version,
  };
  const steps = [];
  let cart = Array.from({ length: 4 }, () => Math.random() / 10 - 0.05);
  let terminated = false;
  const began = performance.now();
  while (!terminated && steps.length < MOST_STEPS) {
    const early = began + (1000 * steps.length) / rate - performance.now();
    if (early > 5) await sleep(early);
    const obs = Float32Array.from(cart); // what the graph sees is what is logged
    const { action, logp } = await choose(policy, obs);
    const { next, over } = step(cart, action);
    steps.push({ obs: [...obs], action, reward: 1.0, logp });
    [cart, terminated] = [next, over];
  }
  const end = { final_obs: [...Float32Array.from(cart)], terminated, truncated: !terminated };
  return [{ ...header, ended_at: new Date().toISOString() }, ...steps, end];
}

/** Write the episode aside and rename it: from then on it belongs to the daemon. */
async function deposit(spool, lines) {
  const name = `${CLIENT_ID}-${lines[0].episode_id}.jsonl`;
  const aside = join(spool, "in", `.tmp-${name}`);
  await writeFile(aside, lines.map((line) => JSON.stringify(line) + "\n").join(""));
  await rename(aside, join(spool, "in", name));
}

const [spool, state, rate = "2000"] = process.argv.slice(2);
if (!state || !(Number(rate) > 0)) {
  console.error("usage: node cartpole.mjs SPOOL STATE [STEPS_PER_SECOND]");
  process.exit(2);
}
for (let policy = { version: 0, session: null }; ; ) {
  policy = await takeUp(state, policy); // between episodes: one version plays a whole episode
  const lines = await play(policy, Number(rate));
  await deposit(spool, lines);
  const steps = lines.length - 2;
  console.log(JSON.stringify({ at: Date.now() / 1000, return: steps, steps, version: policy.version }));
}
