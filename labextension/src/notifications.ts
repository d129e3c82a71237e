/**
 * News as JupyterLab notifications: what ends soon, was stopped, has a new price, was answered. Each is shown once.
 */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import type { ServerConnection } from '@jupyterlab/services';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator, type TranslationBundle } from '@jupyterlab/translation';
import { Poll } from '@lumino/polling';

import { listenToNews, type INews } from './api.js';
import {
  describeNotice,
  isAboutAnEnd,
  isUnseen,
  seenWith,
  worthShowing,
  type INoticeView,
  type ISeen,
  type Mute
} from './news.js';

const PLUGIN_ID = 'fastgpu:notifications';
const RECONNECT_MS = 2000;
const MAX_BACKOFF_MS = 60_000;

/** The plugin: follows its settings. */
export const notificationsPlugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN_ID,
  description: 'Tells when GPUs are about to be taken away, and other news from FastGPU.',
  autoStart: true,
  optional: [ISettingRegistry, ITranslator],
  activate: (app: JupyterFrontEnd, settingRegistry: ISettingRegistry | null, translator: ITranslator | null): void => {
    const trans = (translator ?? nullTranslator).load('fastgpu');
    const serverSettings = app.serviceManager.serverSettings;
    const reader = new NewsReader(serverSettings, new Memory(serverSettings.baseUrl), trans);
    void followSettings(reader, settingRegistry);
  }
};

/** Start the reader with the user's settings (or the defaults when they cannot be read) and keep to them. */
async function followSettings(reader: NewsReader, settingRegistry: ISettingRegistry | null): Promise<void> {
  try {
    const settings = await settingRegistry?.load(PLUGIN_ID);
    const apply = (): void => {
      const mute = settings?.composite.mute;
      reader.configure(mute === 'minor' || mute === 'everything' ? mute : 'nothing');
    };
    settings?.changed.connect(apply);
    apply();
  } catch (reason) {
    console.error('FastGPU: the notification settings cannot be read; the defaults apply.', reason);
    reader.configure('nothing');
  }
}

/** How far this browser has seen the news of one server, across reloads; for this page only where that is forbidden. */
class Memory {
  constructor(baseUrl: string) {
    this.key = `${PLUGIN_ID}:${baseUrl}`;
  }

  read(): ISeen | null {
    try {
      const { id, at } = JSON.parse(localStorage.getItem(this.key) ?? '{}') as Partial<ISeen>;
      return typeof id === 'number' && typeof at === 'string' && !Number.isNaN(Date.parse(at)) ? { id, at } : null;
    } catch {
      return null;
    }
  }

  write(seen: ISeen): void {
    try {
      localStorage.setItem(this.key, JSON.stringify(seen));
    } catch (reason) {
      console.warn('FastGPU: this browser keeps nothing; news may be shown again after a reload.', reason);
    }
  }

  private readonly key: string;
}

/** Listens while it is not muted, and shows what is new. */
class NewsReader {
  constructor(serverSettings: ServerConnection.ISettings, memory: Memory, trans: TranslationBundle) {
    this.memory = memory;
    this.trans = trans;
    this.seen = memory.read();
    this.firstVisit = this.seen === null;
    // A connection that ends is one tick of the poll; it is made anew also in a hidden page, which may sound or blink.
    this.connections = new Poll({
      name: `${PLUGIN_ID}:connections`,
      factory: () => {
        this.hangUp = new AbortController();
        return listenToNews(
          serverSettings,
          news => {
            this.receive(news);
          },
          this.hangUp.signal
        );
      },
      frequency: { interval: RECONNECT_MS, backoff: true, max: MAX_BACKOFF_MS },
      standby: 'never',
      auto: false
    });
  }

  /** Follow the setting; what is muted altogether is not even listened to, and told when it is wanted again. */
  configure(mute: Mute): void {
    const listened = this.mute !== null && this.mute !== 'everything';
    this.mute = mute;
    if (mute === 'everything') {
      void this.connections.stop();
      this.hangUp?.abort();
    } else if (!listened) {
      void this.connections.refresh();
    }
  }

  private receive({ notices, now, service_url: serviceUrl }: INews): void {
    const unseen = notices.filter(notice => isUnseen(notice, this.seen));
    for (const notice of unseen) {
      this.seen = seenWith(notice, this.seen);
    }
    if (this.seen !== null && unseen.length > 0) {
      this.memory.write(this.seen);
    }
    const nowMs = Date.parse(now);
    for (const notice of worthShowing(unseen, this.firstVisit, this.mute ?? 'nothing', nowMs)) {
      const shown = this.show(describeNotice(notice, nowMs, this.trans), 0, serviceUrl);
      if (notice.workload_id !== null && isAboutAnEnd(notice)) {
        const earlier = this.endings.get(notice.workload_id);
        if (earlier !== undefined) {
          Notification.dismiss(earlier);
        }
        this.endings.set(notice.workload_id, shown);
      }
    }
  }

  private show(view: INoticeView, page: number, serviceUrl: string | null): string {
    const actions: Notification.IAction[] = [];
    if (page + 1 < view.pages.length) {
      actions.push({
        label: this.trans.__('More'),
        caption: this.trans.__('Read on'),
        callback: event => {
          event.preventDefault();
          this.show({ ...view, autoCloseMs: false }, page + 1, serviceUrl);
        }
      });
    }
    if (serviceUrl !== null) {
      actions.push({
        label: this.trans.__('Open FastGPU'),
        caption: this.trans.__('Open FastGPU in a new tab'),
        displayType: 'link',
        callback: () => {
          window.open(serviceUrl, '_blank', 'noopener');
        }
      });
    }
    return Notification.emit(view.pages[page] ?? '', view.type, { autoClose: view.autoCloseMs, actions });
  }

  private readonly memory: Memory;
  private readonly trans: TranslationBundle;
  private readonly connections: Poll;
  private readonly firstVisit: boolean;
  private readonly endings = new Map<string, string>();
  private seen: ISeen | null;
  private mute: Mute | null = null;
  private hangUp: AbortController | null = null;
}
