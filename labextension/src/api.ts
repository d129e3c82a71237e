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
