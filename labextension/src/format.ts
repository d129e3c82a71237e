/**
 * The status bar's words. Pure: the same answer at the same instant gives the same text.
 */
import type { IGpuUse, ILease, IProblem, IStatus, IStatusAnswer } from './api.js';

/** The part of a translation bundle that is used here. */
export interface ITranslate {
  __(msgid: string, ...args: unknown[]): string;
}

/** What the status bar item shows: one line, the same in sentences, and whether it reports trouble. */
export interface IStatusView {
  readonly text: string;
  readonly sentences: readonly string[];
  readonly trouble: boolean;
}

const DASH = '—';
const MICROS_PER_UNIT = 1_000_000;
const MS_PER_HOUR = 3_600_000;
// Memory is named as on the device's box: an "80 GB" GPU reports 80 times 1024³ bytes.
const BYTES_PER_GIGABYTE = 1024 ** 3;

/** `h100-80gb` → `H100`, `h100-80gb.1g.10gb` → `H100 1g.10gb`, `rtx-4090-24gb` → `RTX 4090`. */
export function gpuLabel(gpuType: string): string {
  const [device = '', ...slice] = gpuType.split('.');
  const words = device.split('-').filter((word, place) => place === 0 || !/^\d+gb$/.test(word));
  return [words.join(' ').toUpperCase(), slice.join('.')].filter(Boolean).join(' ');
}

/** Micro-units as an exact amount with two to six decimals: `420000` → `0.42`. */
export function formatMoney(micros: number): string {
  const units = Math.trunc(micros / MICROS_PER_UNIT);
  const decimals = String(micros % MICROS_PER_UNIT).padStart(6, '0');
  return `${units}.${decimals.replace(/0{1,4}$/, '')}`;
}

/** A running cost, rounded to two decimals; what is more than nothing never reads as nothing. */
export function formatSpent(micros: number): string {
  const hundredth = MICROS_PER_UNIT / 100;
  return micros >= 1 && micros < hundredth ? '< 0.01' : (Math.round(micros / hundredth) / 100).toFixed(2);
}

/** `18.2`, `80`: one decimal unless it is whole; a dash when the device does not tell. */
export function formatGigabytes(bytes: number | null): string {
  return bytes === null ? DASH : (bytes / BYTES_PER_GIGABYTE).toFixed(1).replace(/\.0$/, '');
}

/** `3 d 4 h`, `2 h 10`, `45 min`, `50 s`; never negative. */
export function formatDuration(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (hours >= 48) {
    return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  }
  if (hours > 0) {
    return `${hours} h ${String(minutes % 60).padStart(2, '0')}`;
  }
  return minutes > 0 ? `${minutes} min` : `${seconds} s`;
}

/** Local `14:02`, with the date in front when it is not the day of `nowMs`. */
export function formatClock(iso: string, nowMs: number): string {
  const at = new Date(iso);
  const pad = (value: number): string => String(value).padStart(2, '0');
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}`;
  const sameDay = at.toDateString() === new Date(nowMs).toDateString();
  return sameDay ? time : `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${time}`;
}

/** What a lease has cost by `nowMs`: the service's figure plus its rate since, while it runs. */
export function costAt(lease: ILease, status: IStatus, nowMs: number): number {
  if (lease.state !== 'running') {
    return lease.cost_micros;
  }
  const fundedUntilMs = lease.funded_until === null ? nowMs : Date.parse(lease.funded_until);
  const sinceMs = Math.max(0, Math.min(nowMs, fundedUntilMs) - Date.parse(status.now));
  return lease.cost_micros + Math.floor((lease.rate_per_hour_micros * sinceMs) / MS_PER_HOUR);
}

/**
 * What to show for an answer at `nowMs` (the service's clock); null when there is nothing to show because this server
 * holds no GPU.
 */
export function describe(answer: IStatusAnswer, nowMs: number, trans: ITranslate): IStatusView | null {
  const leaseId = answer.lease_id;
  if (leaseId === null) {
    return null;
  }
  const { status, problem } = answer;
  if (status === null) {
    return problem === null ? null : describeProblem(problem, nowMs, trans);
  }
  const lease = status.leases.find(({ id }) => id === leaseId);
  if (lease?.state !== 'granted' && lease?.state !== 'running') {
    return describeEnded(lease, trans);
  }
  return describeLease(lease, status, nowMs, trans);
}

function describeProblem(problem: IProblem, nowMs: number, trans: ITranslate): IStatusView {
  const since = formatClock(problem.since, nowMs);
  const text =
    problem.code === 'not_signed_in'
      ? trans.__("FastGPU: this server's token was refused, since %1", since)
      : problem.code === 'unavailable'
        ? trans.__('FastGPU: no answer since %1', since)
        : trans.__('FastGPU: no figures since %1', since);
  return { text, sentences: [text, problem.message, problem.hint].filter(Boolean), trouble: true };
}

function describeEnded(lease: ILease | undefined, trans: ITranslate): IStatusView {
  const text = trans.__('FastGPU: this server no longer holds a GPU');
  const reason = lease?.explanation;
  const sentences = [text, reason?.message ?? trans.__('Its lease has ended.'), reason?.instead ?? ''];
  return { text, sentences: sentences.filter(Boolean), trouble: true };
}

function describeLease(lease: ILease, status: IStatus, nowMs: number, trans: ITranslate): IStatusView {
  const uuids = new Set(lease.gpus.map(({ uuid }) => uuid));
  const use = combine(
    status.gpus.filter(({ gpu }) => uuids.has(gpu.uuid)),
    lease.gpu_count
  );
  const count = lease.gpu_count === 1 ? '' : `${lease.gpu_count} × `;
  const label = count + gpuLabel(lease.gpu_type);
  const percent = use.percent === null ? DASH : String(use.percent);
  const used = formatGigabytes(use.usedBytes);
  const total = formatGigabytes(use.totalBytes);
  const rate = formatMoney(lease.rate_per_hour_micros);
  const cost = costAt(lease, status, nowMs);
  const left = lease.funded_until === null ? DASH : formatDuration(Date.parse(lease.funded_until) - nowMs);

  const text = [
    lease.simulated ? trans.__('%1 (simulated)', label) : label,
    ...(use.lost > 0 ? [trans.__('%1 of %2 lost', use.lost, lease.gpu_count)] : []),
    `${percent} %`,
    `${used}/${total} GB`,
    trans.__('%1 %2/h', rate, status.currency),
    trans.__('spent %1', formatSpent(cost)),
    trans.__('%1 left', left)
  ].join(' · ');

  const unknown = trans.__('not known');
  const known = (value: string): string => (value === DASH ? unknown : value);
  const sentences = [
    lease.simulated
      ? trans.__('FastGPU: this server holds %1 (%2), a simulated GPU.', label, lease.gpu_type)
      : trans.__('FastGPU: this server holds %1 (%2).', label, lease.gpu_type),
    use.lost > 0 ? trans.__('%1 of %2 GPUs no longer answer.', use.lost, lease.gpu_count) : '',
    trans.__('GPU use: %1.', use.percent === null ? unknown : `${percent} %`),
    trans.__('Memory in use: %1 of %2 GB.', known(used), known(total)),
    trans.__('Price now: %1 %2 per hour.', rate, status.currency),
    lease.promotion_name ? trans.__('Promotion: %1.', lease.promotion_name) : '',
    trans.__('Spent so far: %1 %2, charged to %3.', formatSpent(cost), status.currency, lease.account),
    lease.funded_until === null
      ? trans.__('Reserved until: not known.')
      : trans.__('Reserved until %1, %2 from now.', formatClock(lease.funded_until, nowMs), left),
    ...describeEnd(lease, nowMs, trans)
  ];
  return { text, sentences: sentences.filter(Boolean), trouble: use.lost > 0 };
}

function describeEnd(lease: ILease, nowMs: number, trans: ITranslate): string[] {
  if (lease.ends_at === null) {
    return [];
  }
  const clock = formatClock(lease.ends_at, nowMs);
  if (lease.ending === null || lease.ending.code === 'time_limit') {
    return [trans.__('Ends at %1: its time limit.', clock)];
  }
  return [trans.__('Ends at %1: %2', clock, lease.ending.message), lease.ending.instead];
}

interface ICombinedUse {
  readonly percent: number | null;
  readonly usedBytes: number | null;
  readonly totalBytes: number | null;
  readonly lost: number;
}

/** Mean use and summed memory over a lease's GPUs; unknown as soon as one of them does not tell. */
function combine(samples: readonly IGpuUse[], gpuCount: number): ICombinedUse {
  const working = samples.filter(({ lost }) => !lost);
  const lost = samples.length - working.length;
  const complete = working.length > 0 && samples.length === gpuCount;
  const sum = (read: (sample: IGpuUse) => number | null): number | null =>
    working.reduce<number | null>(
      (total, sample) => {
        const value = read(sample);
        return total === null || value === null ? null : total + value;
      },
      complete ? 0 : null
    );
  const percents = sum(sample => sample.utilisation_percent);
  return {
    percent: percents === null ? null : Math.round(percents / working.length),
    usedBytes: sum(sample => sample.memory_used_bytes),
    totalBytes: sum(sample => sample.memory_total_bytes),
    lost
  };
}
