/* A driver's library that claims two GPUs, busy to 50 and 75 percent. See tests/gpus.rs. */
#include <stdio.h>
#include <stdint.h>
#include <string.h>

typedef struct { uint32_t version; uint64_t total, reserved, free, used; } Memory;
typedef struct { uint32_t gpu, memory; } Utilization;
typedef struct {
    char legacy[16];
    uint32_t domain, bus, device, pci_device, pci_subsystem;
    char bus_id[32];
} Pci;

enum { OK = 0, INVALID = 2 };
static int gpus[2];
static int number(void *gpu) { return (int)((int *)gpu - gpus); }

int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == OK ? "success" : "failure"; }
int nvmlDeviceGetCount_v2(uint32_t *count) { *count = 2; return OK; }

int nvmlDeviceGetHandleByIndex_v2(uint32_t index, void **gpu) {
    if (index > 1) return INVALID;
    *gpu = &gpus[index];
    return OK;
}

int nvmlDeviceGetName(void *gpu, char *name, uint32_t length) {
    (void)gpu;
    snprintf(name, length, "Model T");
    return OK;
}

int nvmlDeviceGetUUID(void *gpu, char *uuid, uint32_t length) {
    snprintf(uuid, length, "GPU-0000000%d-aaaa", number(gpu));
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *gpu, Memory *memory) {
    (void)gpu;
    memory->total = 16ull << 30;
    memory->used = 4ull << 30;
    memory->free = 12ull << 30;
    return OK;
}

int nvmlDeviceGetPciInfo_v3(void *gpu, Pci *pci) {
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", 0xf0 + number(gpu));
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *gpu, Utilization *utilization) {
    utilization->gpu = 50 + 25 * number(gpu);
    utilization->memory = 1;
    return OK;
}
