/**
 * The status bar says what is true: known figures exactly, unknown ones as a dash, trouble in words.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  costAt,
  describe,
  formatClock,
  formatDuration,
  formatGigabytes,
  formatMoney,
  formatSpent,
  gpuLabel
} from '../lib/format.js';

const NOW = '2026-03-02T12:00:00Z';
const NOW_MS = Date.parse(NOW);
const GIB = 1024 ** 3;
const trans = { __: (text, ...args) => text.replace(/%(\d)/g, (_, place) => String(args[place - 1])) };

const gpu = { uuid: 'GPU-1', gpu_type: 'h100-80gb', simulated: false };
const use = {
  gpu,
  utilisation_percent: 63,
  memory_used_bytes: 18.2 * GIB,
  memory_total_bytes: 80 * GIB,
  lost: false
};
const lease = {
  id: 'lease-1',
  account: 'class:cs101',
  gpu_type: 'h100-80gb',
  gpu_count: 1,
  state: 'running',
  gpus: [gpu],
  explanation: null,
  rate_per_hour_micros: 420_000,
  cost_micros: 71_234,
  funded_until: '2026-03-02T14:10:30Z',
  ends_at: null,
  ending: null,
  promotion_name: '',
  simulated: false
};

function answerWith({ leaseChanges = {}, gpus = [use], ...changes } = {}) {
  const status = { currency: 'credits', now: NOW, leases: [{ ...lease, ...leaseChanges }], gpus };
  return { lease_id: 'lease-1', service_url: '/services/fastgpu/', status, problem: null, ...changes };
}

const textOf = (answer, nowMs = NOW_MS) => describe(answer, nowMs, trans)?.text;

test('one line names GPU, use, memory, rate, spent and time left', () => {
  assert.equal(textOf(answerWith()), 'H100 · 63 % · 18.2/80 GB · 0.42 credits/h · spent 0.07 · 2 h 10 left');
});

test('the tooltip says the same in sentences', () => {
  const { sentences, trouble } = describe(answerWith({ leaseChanges: { promotion_name: 'Night owl' } }), NOW_MS, trans);
  assert.equal(trouble, false);
  assert.deepEqual(sentences.slice(0, -1), [
    'FastGPU: this server holds H100 (h100-80gb).',
    'GPU use: 63 %.',
    'Memory in use: 18.2 of 80 GB.',
    'Price now: 0.42 credits per hour.',
    'Promotion: Night owl.',
    'Spent so far: 0.07 credits, charged to class:cs101.'
  ]);
  assert.match(sentences.at(-1), /^Reserved until .*\d\d:\d\d, 2 h 10 from now\.$/);
});

test('the tooltip names the end and what helps', () => {
  const sentencesFor = leaseChanges => describe(answerWith({ leaseChanges }), NOW_MS, trans).sentences;
  const ends_at = '2026-03-02T13:00:00Z';
  const ending = { code: 'credit', message: 'Credit is used up.', instead: 'Ask for more.' };
  const [sentence, help] = sentencesFor({ ends_at, ending }).slice(-2);
  assert.match(sentence, /^Ends at (\S+ )?\d\d:\d\d: Credit is used up\.$/);
  assert.equal(help, 'Ask for more.');
  const limit = { code: 'time_limit', message: 'The time is over.', instead: 'Ask for longer.' };
  assert.match(sentencesFor({ ends_at, ending: limit }).at(-1), /^Ends at .*: its time limit\.$/);
});

test('a simulated GPU says so', () => {
  const view = describe(answerWith({ leaseChanges: { simulated: true } }), NOW_MS, trans);
  assert.match(view.text, /^H100 \(simulated\) · /);
  assert.match(view.sentences[0], /a simulated GPU\.$/);
});

test('what the device does not tell is a dash, never zero', () => {
  const silent = { ...use, utilisation_percent: null, memory_used_bytes: null };
  assert.match(textOf(answerWith({ gpus: [silent] })), / · — % · —\/80 GB · /);
  assert.match(textOf(answerWith({ gpus: [] })), / · — % · —\/— GB · /);
  assert.match(textOf(answerWith({ leaseChanges: { funded_until: null } })), / · — left$/);
});

test('several GPUs: mean use, summed memory, unknown when one is silent, a lost one is named', () => {
  const second = { ...use, gpu: { ...gpu, uuid: 'GPU-2' }, utilisation_percent: 32 };
  const leaseChanges = { gpu_count: 2, gpus: [gpu, second.gpu] };
  assert.match(textOf(answerWith({ leaseChanges, gpus: [use, second] })), /^2 × H100 · 48 % · 36.4\/160 GB · /);
  assert.match(textOf(answerWith({ leaseChanges, gpus: [use] })), /^2 × H100 · — % · —\/— GB · /);
  const withLost = answerWith({ leaseChanges, gpus: [use, { ...second, lost: true }] });
  assert.match(textOf(withLost), /^2 × H100 · 1 of 2 lost · 63 % · /);
  assert.equal(describe(withLost, NOW_MS, trans).trouble, true);
});

test("another server's GPUs are left out", () => {
  const other = { ...use, gpu: { ...gpu, uuid: 'GPU-9' }, utilisation_percent: 99 };
  assert.match(textOf(answerWith({ gpus: [other, use] })), / · 63 % · /);
});

test('the cost ticks with the rate while the lease runs, and only until its money ends', () => {
  const { status } = answerWith();
  assert.equal(costAt(lease, status, NOW_MS + 3_600_000), 71_234 + 420_000);
  assert.equal(costAt(lease, status, NOW_MS - 5000), 71_234);
  const ending = { ...lease, funded_until: '2026-03-02T12:30:00Z' };
  assert.equal(costAt(ending, status, NOW_MS + 3_600_000), 71_234 + 210_000);
  assert.equal(costAt({ ...lease, state: 'granted' }, status, NOW_MS + 3_600_000), 71_234);
});

test('a server without a GPU shows nothing, in trouble or not', () => {
  assert.equal(describe(answerWith({ lease_id: null }), NOW_MS, trans), null);
  const problem = { code: 'unavailable', message: 'x', hint: '', since: NOW };
  assert.equal(describe(answerWith({ lease_id: null, status: null, problem }), NOW_MS, trans), null);
});

test('an unreachable service is stated with the time, not hidden', () => {
  const since = new Date(2026, 2, 2, 14, 2).toISOString();
  const nowMs = new Date(2026, 2, 2, 14, 9).getTime();
  const problem = { code: 'unavailable', message: 'The service is down.', hint: 'Wait.', since };
  const view = describe(answerWith({ status: null, problem }), nowMs, trans);
  assert.equal(view.text, 'FastGPU: no answer since 14:02');
  assert.deepEqual(view.sentences, [view.text, 'The service is down.', 'Wait.']);
  assert.equal(view.trouble, true);
  const refused = { ...problem, code: 'not_signed_in' };
  assert.equal(
    textOf(answerWith({ status: null, problem: refused }), nowMs),
    "FastGPU: this server's token was refused, since 14:02"
  );
});

test('a lease that ended while the server lives is stated with its reason', () => {
  const gone = answerWith({ lease_id: 'lease-0' });
  assert.equal(textOf(gone), 'FastGPU: this server no longer holds a GPU');
  const explanation = { code: 'credit', message: 'The credit is used up.', instead: 'Ask for more.' };
  const ended = describe(answerWith({ leaseChanges: { state: 'released', explanation } }), NOW_MS, trans);
  assert.deepEqual(ended.sentences.slice(1), ['The credit is used up.', 'Ask for more.']);
});

test('GPU types read as people call them', () => {
  assert.equal(gpuLabel('h100-80gb'), 'H100');
  assert.equal(gpuLabel('h100-80gb.1g.10gb'), 'H100 1g.10gb');
  assert.equal(gpuLabel('rtx-4090-24gb'), 'RTX 4090');
  assert.equal(gpuLabel('l4'), 'L4');
});

test('money is exact, what was spent is rounded down and never reads as nothing', () => {
  assert.equal(formatMoney(420_000), '0.42');
  assert.equal(formatMoney(16_000_000), '16.00');
  assert.equal(formatMoney(1), '0.000001');
  assert.equal(formatMoney(1_500_000), '1.50');
  assert.equal(formatSpent(0), '0.00');
  assert.equal(formatSpent(9_999), '< 0.01');
  assert.equal(formatSpent(666_666), '0.67');
  assert.equal(formatSpent(1_994_999), '1.99');
});

test('durations, memory and clock times', () => {
  assert.deepEqual([-5, 50_000, 45 * 60_000, 7_800_000, 100 * 3_600_000].map(formatDuration), [
    '0 s',
    '50 s',
    '45 min',
    '2 h 10',
    '4 d 4 h'
  ]);
  assert.deepEqual([null, 0, 18.24 * GIB, 80 * GIB].map(formatGigabytes), ['—', '0', '18.2', '80']);
  const evening = new Date(2026, 2, 1, 23, 5);
  assert.equal(formatClock(evening.toISOString(), evening.getTime()), '23:05');
  assert.equal(formatClock(evening.toISOString(), new Date(2026, 2, 2, 1, 0).getTime()), '2026-03-01 23:05');
});
