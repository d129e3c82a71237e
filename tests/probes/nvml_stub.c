/* A libnvidia-ml.so.1 without a driver: GPUs as the file named by NVML_STUB_FILE describes them, read at every call.
 *
 * A line is KEY GPU VALUE. Keys: count, name, memory (MiB), lost, sentinel (memory is N/A), mig (number of MIG
 * devices, -1 for no MIG mode), hang (seconds that the utilisation takes), fail (error code of every reading).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, IS_LOST = 15 };
typedef struct { int gpu, part; } device; /* part: -1 for the whole GPU, else the MIG device */
typedef unsigned long long u64;

static device devices[16][9];

static const char *text(const char *key, int gpu, const char *otherwise) {
    static char value[200];
    char line[300], found[40];
    int number, used;
    const char *path = getenv("NVML_STUB_FILE");
    FILE *file = path ? fopen(path, "r") : NULL;
    const char *result = otherwise;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%39s %d %n", found, &number, &used) == 2 && number == gpu && !strcmp(found, key)) {
            snprintf(value, sizeof value, "%s", line + used);
            value[strcspn(value, "\n")] = 0;
            result = value;
        }
    if (file) fclose(file);
    return result;
}

static long number(const char *key, int gpu, long otherwise) {
    const char *value = text(key, gpu, NULL);
    return value ? atol(value) : otherwise;
}

static int trouble(device *d) {
    if (number("lost", d->gpu, 0)) return IS_LOST;
    return number("fail", d->gpu, OK);
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return number("init", 0, OK); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "stub error"; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = number("count", 0, 4); return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **handle) {
    if (number("gone", index, 0)) return IS_LOST;
    *handle = &devices[index][8];
    **handle = (device){index, -1};
    return OK;
}

int nvmlDeviceGetUUID(device *d, char *out, unsigned size) {
    if (trouble(d) == IS_LOST) return IS_LOST;
    if (d->part < 0) snprintf(out, size, "GPU-%08d-stub", d->gpu);
    else snprintf(out, size, "MIG-%08d-%d", d->gpu, d->part);
    return OK;
}

int nvmlDeviceGetName(device *d, char *out, unsigned size) {
    if (trouble(d)) return trouble(d);
    snprintf(out, size, d->part < 0 ? "%s" : "%s MIG 1g.10gb", text("name", d->gpu, "NVIDIA H100 80GB HBM3"));
    return OK;
}

static int memory(device *d, u64 *total, u64 *used) {
    if (trouble(d)) return trouble(d);
    u64 mib = d->part < 0 ? number("memory", d->gpu, 81559) : 9984;
    int na = number("sentinel", d->gpu, 0);
    *total = na ? ~0ULL : mib << 20;
    *used = na ? ~0ULL : (u64)1 << 30;
    return OK;
}

int nvmlDeviceGetMemoryInfo(device *d, u64 *out) { return memory(d, &out[0], &out[2]); }
int nvmlDeviceGetMemoryInfo_v2(device *d, u64 *out) {
    return number("old", 0, 0) ? NOT_SUPPORTED : memory(d, &out[1], &out[4]);
}

int nvmlDeviceGetUtilizationRates(device *d, unsigned *out) {
    if (d->part >= 0) return NOT_SUPPORTED;
    sleep(number("hang", d->gpu, 0));
    out[0] = 63, out[1] = 20;
    return trouble(d);
}

int nvmlDeviceGetPowerUsage(device *d, unsigned *milliwatts) {
    *milliwatts = number("sentinel", d->gpu, 0) ? ~0U : 345600;
    return d->part >= 0 ? NOT_SUPPORTED : trouble(d);
}

int nvmlDeviceGetTemperature(device *d, int sensor, unsigned *celsius) {
    *celsius = 41;
    return d->part >= 0 || sensor ? NOT_SUPPORTED : trouble(d);
}

int nvmlDeviceGetMigMode(device *d, unsigned *current, unsigned *pending) {
    if (trouble(d) == IS_LOST) return IS_LOST;
    *current = *pending = number("mig", d->gpu, -1) >= 0;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *count) { (void)d; *count = 7; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned index, device **part) {
    /* The first place stays empty, as after a MIG device was destroyed. */
    if (index < 1 || (long)index > number("mig", d->gpu, -1)) return NOT_FOUND;
    *part = &devices[d->gpu][index];
    **part = (device){d->gpu, (int)index};
    return OK;
}
