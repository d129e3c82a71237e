/**
 * What the browser asks of FastGPU: always through this Jupyter server's extension, which holds the token.
 *
 * The types repeat the parts of the service's wire models that are shown. Money is an integer in micro-units
 * (1 000 000 = one unit), instants are ISO 8601 with a zone, memory is bytes, null means not known.
 */
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

/** Why something is the way it is, in one sentence with a stable code. */
export interface IExplanation {
  readonly code: string;
  readonly message: string;
  readonly instead: string;
}

/** One leasable device. */
export interface IGpu {
  readonly uuid: string;
  readonly gpu_type: string;
  readonly simulated: boolean;
}

/** One sample of a device in use. */
export interface IGpuUse {
  readonly gpu: IGpu;
  readonly utilisation_percent: number | null;
  readonly memory_used_bytes: number | null;
  readonly memory_total_bytes: number | null;
  readonly lost: boolean;
}

/** GPUs held by a server or job, with what they cost so far. */
export interface ILease {
  readonly id: string;
  readonly account: string;
  readonly gpu_type: string;
  readonly gpu_count: number;
  readonly state: 'queued' | 'granted' | 'running' | 'released' | 'refused' | 'cancelled';
  readonly gpus: readonly IGpu[];
  readonly explanation: IExplanation | null;
  readonly rate_per_hour_micros: number;
  readonly cost_micros: number;
  readonly funded_until: string | null;
  /** When it will be stopped, where that is known; `ending` says why and what helps. */
  readonly ends_at: string | null;
  readonly ending: IExplanation | null;
  readonly promotion_name: string;
  readonly simulated: boolean;
}

/** The service's view of the server's owner. */
export interface IStatus {
  readonly currency: string;
  readonly now: string;
  readonly leases: readonly ILease[];
  readonly gpus: readonly IGpuUse[];
}

/** Why there is no status, and since when. */
export interface IProblem {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  readonly since: string;
}

/** The server extension's answer: exactly one of `status` and `problem` is null. */
export interface IStatusAnswer {
  /** The lease whose GPUs this Jupyter server holds; null when it holds none. */
  readonly lease_id: string | null;
  /** The service's page for people; null when it is not known. */
  readonly service_url: string | null;
  readonly status: IStatus | null;
  readonly problem: IProblem | null;
}

/** News for the server's owner. */
export interface INotice {
  readonly id: number;
  readonly at: string;
  readonly kind: 'ending' | 'stopped' | 'soft_limit' | 'price_changed' | 'answered' | 'not_kept' | 'late';
  readonly explanation: IExplanation;
  readonly workload_id: string | null;
  readonly ends_at: string | null;
}

/** One message of the server extension's socket: notices, oldest first, passed on at `now`; the service's page. */
export interface INews {
  readonly service_url: string | null;
  readonly now: string;
  readonly notices: readonly INotice[];
}

/**
 * Ask the server extension for one status.
 *
 * Rejects with `ServerConnection.NetworkError` when the Jupyter server does not answer, and with
 * `ServerConnection.ResponseError` when it refuses or has no such extension.
 */
export async function fetchStatus(settings: ServerConnection.ISettings): Promise<IStatusAnswer> {
  const url = URLExt.join(settings.baseUrl, 'fastgpu', 'api', 'status');
  const response = await ServerConnection.makeRequest(url, {}, settings);
  if (!response.ok) {
    throw await ServerConnection.ResponseError.create(response);
  }
  return (await response.json()) as IStatusAnswer;
}

/**
 * Listen to the server extension's news until the connection ends; `signal` ends it from here.
 *
 * Each connection begins with the latest news there was. Rejects when no connection came about.
 */
export function listenToNews(
  settings: ServerConnection.ISettings,
  receive: (news: INews) => void,
  signal: AbortSignal
): Promise<void> {
  const token = settings.appendToken && settings.token ? `?token=${encodeURIComponent(settings.token)}` : '';
  const socket = new settings.WebSocket(URLExt.join(settings.wsUrl, 'fastgpu', 'api', 'events') + token);
  return new Promise((resolve, reject) => {
    let opened = false;
    const close = (): void => {
      socket.close();
    };
    signal.addEventListener('abort', close);
    socket.onopen = () => {
      opened = true;
    };
    socket.onmessage = ({ data }: MessageEvent<string>) => {
      receive(JSON.parse(data) as INews);
    };
    socket.onclose = () => {
      signal.removeEventListener('abort', close);
      if (opened || signal.aborted) {
        resolve();
      } else {
        reject(new Error('This Jupyter server gives no news of FastGPU.'));
      }
    };
  });
}
