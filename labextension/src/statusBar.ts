/**
 * Status bar item: this server's GPU, its use, what it costs and how long the money lasts.
 */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import type { ServerConnection } from '@jupyterlab/services';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator, type TranslationBundle } from '@jupyterlab/translation';
import { Poll } from '@lumino/polling';
import { Signal, type ISignal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import { fetchStatus, type IStatusAnswer } from './api.js';
import { describe } from './format.js';

const PLUGIN_ID = 'fastgpu:status-bar';
const DEFAULT_POLL_RATE_MS = 3000;
const MIN_POLL_RATE_MS = 1000;
// A server without a GPU gets one only by a restart, so asking seldom is enough.
const IDLE_POLL_RATE_MS = 60_000;
const MAX_BACKOFF_MS = 60_000;
const TICK_MS = 1000;

/** The plugin: needs a status bar, follows its settings. */
export const statusBarPlugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN_ID,
  description: 'Shows the GPU of this server, its use, running cost and time left in the status bar.',
  autoStart: true,
  optional: [IStatusBar, ISettingRegistry, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    statusBar: IStatusBar | null,
    settingRegistry: ISettingRegistry | null,
    translator: ITranslator | null
  ): void => {
    if (statusBar === null) {
      return;
    }
    const trans = (translator ?? nullTranslator).load('fastgpu');
    const item = new StatusItem(app.serviceManager.serverSettings, trans);
    statusBar.registerStatusItem(PLUGIN_ID, {
      item,
      align: 'left',
      rank: 50,
      priority: 1,
      isActive: () => item.active,
      activeStateChanged: item.activeChanged
    });
    void followSettings(item, settingRegistry);
  }
};

/** Start the item with the user's settings (or the defaults when they cannot be read) and keep to them. */
async function followSettings(item: StatusItem, settingRegistry: ISettingRegistry | null): Promise<void> {
  try {
    const settings = await settingRegistry?.load(PLUGIN_ID);
    const apply = (): void => {
      const { pollRateMs, hide } = settings?.composite ?? {};
      item.configure(typeof pollRateMs === 'number' ? pollRateMs : DEFAULT_POLL_RATE_MS, hide === true);
    };
    settings?.changed.connect(apply);
    apply();
  } catch (reason) {
    console.error('FastGPU: the status bar settings cannot be read; the defaults apply.', reason);
    item.configure(DEFAULT_POLL_RATE_MS, false);
  }
}

/** One line of text, a link to the service's page when that is known. */
class StatusItem extends Widget {
  constructor(serverSettings: ServerConnection.ISettings, trans: TranslationBundle) {
    super();
    this.serverSettings = serverSettings;
    this.trans = trans;
    this.addClass('jp-FastGPU-status');
    this.link.className = 'jp-StatusBar-TextItem jp-FastGPU-status-text';
    this.link.target = '_blank';
    this.link.rel = 'noopener';
    this.node.append(this.link);
    this.samples = new Poll({
      name: `${PLUGIN_ID}:samples`,
      factory: () => this.sample(),
      frequency: { interval: DEFAULT_POLL_RATE_MS, backoff: true, max: MAX_BACKOFF_MS },
      standby: 'when-hidden',
      auto: false
    });
    // The running cost moves on between samples; figures are read anew, so a missed tick is made up by the next.
    this.ticks = new Poll({
      name: `${PLUGIN_ID}:ticks`,
      factory: () => {
        this.renderText();
        return Promise.resolve();
      },
      frequency: { interval: TICK_MS, backoff: false },
      standby: 'when-hidden',
      auto: false
    });
  }

  /** Whether there is something to show. */
  get active(): boolean {
    return this._active;
  }

  /** Emitted when `active` changes. */
  get activeChanged(): ISignal<this, void> {
    return this._activeChanged;
  }

  /** Follow the settings: the pace in milliseconds, and whether to be there at all. */
  configure(pollRateMs: number, hidden: boolean): void {
    this.pollRateMs = Math.max(MIN_POLL_RATE_MS, pollRateMs);
    this.hiddenByUser = hidden;
    this.setPace();
    void (hidden ? this.samples.stop() : this.samples.refresh());
    this.render();
  }

  override dispose(): void {
    this.samples.dispose();
    this.ticks.dispose();
    Signal.clearData(this);
    super.dispose();
  }

  private async sample(): Promise<void> {
    try {
      this.answer = await fetchStatus(this.serverSettings);
      this.receivedAt = performance.now();
      this.silentSince = null;
    } catch (reason) {
      this.silentSince ??= new Date().toISOString();
      if (this.answer !== null) {
        this.answer = { ...this.answer, status: null, problem: this.describeSilence(this.silentSince) };
      }
      this.render();
      throw reason;
    }
    this.setPace();
    this.render();
  }

  private describeSilence(since: string): IStatusAnswer['problem'] {
    const message = this.trans.__('This Jupyter server gives no answer.');
    return { code: 'unavailable', message, hint: this.trans.__('Its GPU may still be charged.'), since };
  }

  private setPace(): void {
    const idle = this.answer?.lease_id === null;
    const interval = idle ? Math.max(IDLE_POLL_RATE_MS, this.pollRateMs) : this.pollRateMs;
    if (this.samples.frequency.interval !== interval) {
      this.samples.frequency = { interval, backoff: true, max: Math.max(MAX_BACKOFF_MS, interval) };
    }
  }

  /** The service's clock now: that of the last answer, moved on by this page's own steady clock. */
  private serviceNow(): number {
    const status = this.answer?.status;
    return status ? Date.parse(status.now) + performance.now() - this.receivedAt : Date.now();
  }

  private view(): ReturnType<typeof describe> {
    return this.answer === null || this.hiddenByUser ? null : describe(this.answer, this.serviceNow(), this.trans);
  }

  /** Text, tooltip, name for assistive technology, link and visibility. */
  private render(): void {
    const view = this.view();
    const address = this.answer?.service_url ?? null;
    if (view !== null) {
      const action = address === null ? [] : [this.trans.__('Select to open FastGPU in a new tab.')];
      const sentences = [...view.sentences, ...action];
      this.link.textContent = view.text;
      this.link.setAttribute('aria-label', sentences.join(' '));
      this.node.title = sentences.join('\n');
      this.toggleClass('jp-mod-trouble', view.trouble);
    }
    if (address === null) {
      this.link.removeAttribute('href');
    } else {
      this.link.href = address;
    }
    if (this._active !== (view !== null)) {
      this._active = view !== null;
      void (this._active ? this.ticks.start() : this.ticks.stop());
      this._activeChanged.emit();
    }
  }

  /** The text alone: tooltip and name follow with the next sample, lest a screen reader reads them every second. */
  private renderText(): void {
    const view = this.view();
    if (view !== null && this.link.textContent !== view.text) {
      this.link.textContent = view.text;
    }
  }

  private readonly serverSettings: ServerConnection.ISettings;
  private readonly trans: TranslationBundle;
  private readonly link = document.createElement('a');
  private readonly samples: Poll;
  private readonly ticks: Poll;
  private readonly _activeChanged = new Signal<this, void>(this);
  private _active = false;
  private answer: IStatusAnswer | null = null;
  private receivedAt = 0;
  private silentSince: string | null = null;
  private pollRateMs = DEFAULT_POLL_RATE_MS;
  private hiddenByUser = false;
}
