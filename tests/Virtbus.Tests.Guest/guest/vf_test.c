// Drives virtual functions of the merlin adapter from user space in a guest, by docs/adapter-registers.md alone.
//
//   vf_test phys BDF [BDF]   the whole test, BARs by sysfs, memory by physical address, events by looking at memory
//   vf_test vfio BDF [BDF]   the whole test, by the guest's own vfio-pci, events by MSI-X
//   vf_test start BDF        enables the function and leaves it so
//   vf_test idle BDF         says whether the function is as after power-on
//   vf_test loop BDF         copies without end
//
// Prints a line for each thing that works; the first that does not ends it with a sentence and code 1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { IDENTITY = 0x00, PARTS = 0x08, QUEUES = 0x10, WINDOWS = 0x18, MAC = 0x20, CONTROL = 0x40, STATUS = 0x48, ERROR = 0x50 };
enum { COMMAND_BASE = 0x80, COMMAND_SIZE = 0x88, COMMAND_CONSUMER = 0x98, EVENT_BASE = 0xC0, EVENT_SIZE = 0xC8 };
enum { COMMAND_DOORBELL = 0x000, EVENT_DOORBELL = 0x008, TRANSMIT_DOORBELL = 0x100, TRANSMIT_STRIDE = 0x10 };
enum { ENABLE = 1, ENABLED = 1, LINK_UP = 2 };
enum { NOP = 0, QUERY_CAPABILITIES = 1, COPY = 2, CREATE_QUEUE_SET = 3, DESTROY_QUEUE_SET = 4, QUERY_VIRTUAL_FUNCTION = 16 };
enum { COMMAND_DONE = 1, LINK = 2, QUEUE_ERROR = 3 };
enum { MERLIN = 0x4E4C524D, RING_LOG = 4, RING = 1 << RING_LOG, INTERRUPT = 2 };
enum { EVENT_VECTOR = 0, QUEUE_VECTOR = 1, VECTORS = 2 };

// What a function has in its 2 MiB of memory.
enum { COMMANDS = 0x0000, EVENTS = 0x1000, INDEXES = 0x2000, TRANSMIT = 0x3000, RECEIVE = 0x4000 };
enum { SOURCE = 0x10000, TARGET = 0x20000, SENT = 0x40000, RECEIVED = 0x50000, BUFFER = 2048, COPY_SIZE = 0x10000 };
enum { MEMORY = 2 << 20 };

struct command {
    uint16_t opcode, flags;
    uint32_t tag, index, reserved;
    uint64_t argument[6];
};

struct event {
    uint16_t type, status;
    uint32_t tag;
    uint64_t result[2];
    uint32_t reserved, phase;
};

struct descriptor {
    uint64_t address;
    uint32_t size, flags;
};

struct indexes {
    uint32_t transmit_producer, receive_producer, driver[6];
    uint32_t transmit_consumer, receive_consumer, dropped, error, adapter[4];
};

struct function {
    const char *address;
    volatile uint8_t *registers, *doorbells;
    uint8_t *memory;
    uint64_t bus_address;
    int device, container, signals[VECTORS];
    uint32_t commands, events, tag, set;
};

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void check(int good, const char *what)
{
    if (!good)
        fail("%s: %s", what, strerror(errno));
}

static uint64_t get(struct function *f, int offset)
{
    return *(volatile uint64_t *)(f->registers + offset);
}

static void set(struct function *f, int offset, uint64_t value)
{
    *(volatile uint64_t *)(f->registers + offset) = value;
}

static void ring(struct function *f, int offset, uint32_t value)
{
    __sync_synchronize();
    *(volatile uint32_t *)(f->doorbells + offset) = value;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

// Without interrupts the processor is given up between looks: the device's work may need it.
static void wait_for(struct function *f, int vector, double deadline, const char *what)
{
    uint64_t count;
    if (f->signals[vector] < 0) {
        usleep(200);
    } else {
        struct pollfd signal = { f->signals[vector], POLLIN, 0 };
        if (poll(&signal, 1, 1000) == 1)
            check(read(f->signals[vector], &count, 8) == 8, "read of an eventfd");
    }
    if (now() > deadline)
        fail("%s: %s did not come; status %#lx, error %#lx", f->address, what, get(f, STATUS), get(f, ERROR));
}

// ---- the two ways to a function

static int open_file(const char *format, const char *address, int flags)
{
    char path[256];
    snprintf(path, sizeof path, format, address);
    int file = open(path, flags);
    if (file < 0)
        fail("%s: %s", path, strerror(errno));
    return file;
}

static volatile uint8_t *map(int file, off_t offset, size_t size, const char *what)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, offset);
    check(memory != MAP_FAILED, what);
    return memory;
}

static size_t size_of(int file)
{
    struct stat status;
    check(fstat(file, &status) == 0 && status.st_size > 0, "size of a BAR");
    return status.st_size;
}

static void allocate(struct function *f, int flags)
{
    f->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE | flags, -1, 0);
    check(f->memory != MAP_FAILED, "memory");
    memset(f->memory, 0, MEMORY);
}

static void open_phys(struct function *f)
{
    int registers = open_file("/sys/bus/pci/devices/%s/resource0", f->address, O_RDWR | O_SYNC);
    int doorbells = open_file("/sys/bus/pci/devices/%s/resource2", f->address, O_RDWR | O_SYNC);
    f->registers = map(registers, 0, size_of(registers), "BAR 0");
    f->doorbells = map(doorbells, 0, size_of(doorbells), "BAR 2");
    // One huge page: its physical address goes on over all of it.
    allocate(f, MAP_HUGETLB);
    uint64_t entry;
    int pages = open_file("/proc/self/%s", "pagemap", O_RDONLY);
    check(pread(pages, &entry, 8, (uintptr_t)f->memory / 4096 * 8) == 8 && (entry >> 63) != 0, "pagemap");
    close(pages);
    f->bus_address = (entry & ((1ULL << 55) - 1)) * 4096;
    for (int i = 0; i < VECTORS; i++)
        f->signals[i] = -1;
}

static void open_vfio(struct function *f, int number)
{
    char link[256], path[256];
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/iommu_group", f->address);
    ssize_t length = readlink(path, link, sizeof link - 1);
    check(length > 0, "IOMMU group");
    link[length] = 0;
    int group = open_file("/dev/vfio/%s", strrchr(link, '/') + 1, O_RDWR);
    f->container = open_file("/dev/vfio/%s", "vfio", O_RDWR);
    check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &f->container) == 0, "VFIO_GROUP_SET_CONTAINER");
    check(ioctl(f->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0, "VFIO_SET_IOMMU");
    f->device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, f->address);
    check(f->device >= 0, "VFIO_GROUP_GET_DEVICE_FD");

    allocate(f, 0);
    // No address of the guest's memory: without the IOMMU nothing would arrive.
    f->bus_address = 0x4000000000 + ((uint64_t)number << 32);
    struct vfio_iommu_type1_dma_map dma = { sizeof dma, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE, (uintptr_t)f->memory, f->bus_address, MEMORY };
    check(ioctl(f->container, VFIO_IOMMU_MAP_DMA, &dma) == 0, "VFIO_IOMMU_MAP_DMA");

    volatile uint8_t **bars[] = { &f->registers, &f->doorbells };
    for (int i = 0; i < 2; i++) {
        struct vfio_region_info region = { .argsz = sizeof region, .index = 2 * i };
        check(ioctl(f->device, VFIO_DEVICE_GET_REGION_INFO, &region) == 0 && region.size != 0, "VFIO_DEVICE_GET_REGION_INFO");
        *bars[i] = map(f->device, region.offset, region.size, "BAR");
    }
    struct vfio_region_info config = { .argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX };
    check(ioctl(f->device, VFIO_DEVICE_GET_REGION_INFO, &config) == 0, "config space");
    uint16_t command;
    check(pread(f->device, &command, 2, config.offset + 4) == 2, "command register");
    command |= 6;
    check(pwrite(f->device, &command, 2, config.offset + 4) == 2, "command register");

    struct { struct vfio_irq_set set; int files[VECTORS]; } irqs = {
        { sizeof irqs, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_MSIX_IRQ_INDEX, 0, VECTORS }, { 0 } };
    for (int i = 0; i < VECTORS; i++) {
        f->signals[i] = eventfd(0, EFD_CLOEXEC);
        memcpy(irqs.set.data + 4 * i, &f->signals[i], 4);
    }
    check(ioctl(f->device, VFIO_DEVICE_SET_IRQS, &irqs) == 0, "VFIO_DEVICE_SET_IRQS");
}

// ---- commands and events

static void enable(struct function *f)
{
    memset(f->memory, 0, SOURCE);
    f->commands = f->events = 0;
    set(f, COMMAND_BASE, f->bus_address + COMMANDS);
    set(f, COMMAND_SIZE, RING_LOG);
    set(f, EVENT_BASE, f->bus_address + EVENTS);
    set(f, EVENT_SIZE, RING_LOG);
    set(f, CONTROL, ENABLE);
    for (double deadline = now() + 10; (get(f, STATUS) & ENABLED) == 0; usleep(200)) {
        if (now() > deadline)
            fail("%s is not enabled; status %#lx, error %#lx", f->address, get(f, STATUS), get(f, ERROR));
    }
}

static void disable(struct function *f)
{
    set(f, CONTROL, 0);
    for (double deadline = now() + 10; get(f, STATUS) & ENABLED; usleep(200)) {
        if (now() > deadline)
            fail("%s does not stop", f->address);
    }
}

static struct event next_event(struct function *f, const char *what)
{
    volatile struct event *event = (volatile struct event *)(f->memory + EVENTS) + f->events % RING;
    uint32_t phase = ~(f->events >> RING_LOG) & 1;
    for (double deadline = now() + 20; event->phase != phase;)
        wait_for(f, EVENT_VECTOR, deadline, what);
    __sync_synchronize();
    struct event taken = *(struct event *)event;
    ring(f, EVENT_DOORBELL, ++f->events);
    return taken;
}

static struct event run(struct function *f, int opcode, uint32_t index, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    struct command *command = (struct command *)(f->memory + COMMANDS) + f->commands % RING;
    *command = (struct command){ .opcode = opcode, .tag = ++f->tag, .index = index, .argument = { a, b, c, d } };
    ring(f, COMMAND_DOORBELL, ++f->commands);
    struct event event;
    do
        event = next_event(f, "the answer to a command");
    while (event.type == LINK);
    if (event.type != COMMAND_DONE || event.tag != f->tag)
        fail("%s: event %u with tag %u instead of an answer with tag %u", f->address, event.type, event.tag, f->tag);
    return event;
}

static struct event run_well(struct function *f, int opcode, uint32_t index, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    struct event event = run(f, opcode, index, a, b, c, d);
    if (event.status != 0)
        fail("%s: command %d was refused: %s", f->address, opcode, strerror(event.status));
    return event;
}

static uint32_t seed = 12345;

static void fill(uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1103515245 + 12345;
        bytes[i] = seed >> 16;
    }
}

static void copy(struct function *f, size_t from, size_t to, size_t count)
{
    uint8_t *source = f->memory + SOURCE + from, *target = f->memory + TARGET + to;
    memset(f->memory + TARGET, 0xA5, COPY_SIZE);
    fill(source, count);
    run_well(f, COPY, 0, f->bus_address + SOURCE + from, f->bus_address + TARGET + to, count, 0);
    if (memcmp(source, target, count) != 0)
        fail("%s: %zu bytes were copied wrong", f->address, count);
    if ((to > 0 && target[-1] != 0xA5) || (to + count < COPY_SIZE && target[count] != 0xA5))
        fail("%s: more than %zu bytes were copied", f->address, count);
}

static void test_commands(struct function *f)
{
    if ((uint32_t)get(f, IDENTITY) != MERLIN)
        fail("%s: the identity register is %#lx", f->address, get(f, IDENTITY));
    if ((get(f, WINDOWS) >> 32 & 0xFFFF) == 0)
        fail("%s is no virtual function", f->address);
    set(f, MAC, 0xFFFFFFFFFFFF);
    if (get(f, MAC) == 0xFFFFFFFFFFFF)
        fail("%s: the address can be written", f->address);
    printf("registers %012lx\n", get(f, MAC));

    enable(f);
    struct event capabilities = run_well(f, QUERY_CAPABILITIES, 0, 0, 0, 0, 0);
    if (capabilities.result[0] != get(f, PARTS) || capabilities.result[1] != get(f, QUEUES))
        fail("%s: command and registers tell different capabilities", f->address);
    // Both rings go around more than once.
    for (int i = 0; i < 3 * RING; i++)
        run_well(f, NOP, 0, 0, 0, 0, 0);
    if (run(f, QUERY_VIRTUAL_FUNCTION, 0, 0, 0, 0, 0).status != EPERM)
        fail("%s may do what only the physical function may", f->address);
    if (run(f, COPY, 0, f->bus_address + SOURCE, 1ULL << 52, 64, 0).status != EFAULT)
        fail("%s: a copy to where no memory is was not refused", f->address);
    puts("commands");

    const struct { size_t from, to, count; } copies[] = { { 0, 0, COPY_SIZE }, { 0, 0, 1 }, { 4093, 7, 8192 }, { 1, 4095, 2 }, { 17, 4096, 50001 } };
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++)
        copy(f, copies[i].from, copies[i].to, copies[i].count);
    puts("copies");
}

// ---- frames

static struct indexes *indexes(struct function *f)
{
    return (struct indexes *)(f->memory + INDEXES);
}

static void create_queues(struct function *f)
{
    struct descriptor *receive = (struct descriptor *)(f->memory + RECEIVE);
    for (int i = 0; i < RING; i++)
        receive[i] = (struct descriptor){ f->bus_address + RECEIVED + i * BUFFER, BUFFER, 0 };
    uint64_t sizes = RING_LOG | RING_LOG << 8 | (uint64_t)QUEUE_VECTOR << 16;
    struct event made = run_well(f, CREATE_QUEUE_SET, 0, f->bus_address + TRANSMIT, f->bus_address + RECEIVE, f->bus_address + INDEXES, sizes);
    f->set = made.result[0];
    __sync_synchronize();
    indexes(f)->receive_producer = RING;
}

static void send_frame(struct function *f, uint64_t to, size_t length)
{
    uint32_t at = indexes(f)->transmit_producer;
    uint8_t *frame = f->memory + SENT + at % RING * BUFFER;
    uint64_t from = get(f, MAC);
    fill(frame, length);
    for (int i = 0; i < 6; i++) {
        frame[i] = to >> (40 - 8 * i);
        frame[6 + i] = from >> (40 - 8 * i);
    }
    frame[12] = 0x88;
    frame[13] = 0xB5;
    ((struct descriptor *)(f->memory + TRANSMIT))[at % RING] = (struct descriptor){ f->bus_address + SENT + at % RING * BUFFER, length, INTERRUPT };
    __sync_synchronize();
    indexes(f)->transmit_producer = at + 1;
    ring(f, TRANSMIT_DOORBELL + f->set * TRANSMIT_STRIDE, 1);
    volatile struct indexes *adapter = indexes(f);
    for (double deadline = now() + 20; adapter->transmit_consumer != at + 1;)
        wait_for(f, QUEUE_VECTOR, deadline, "the end of a transmission");
}

// The frame that another function has just sent, among others that hosts send when they like.
static void receive_frame(struct function *f, uint32_t *taken, const uint8_t *frame, size_t length)
{
    volatile struct indexes *adapter = indexes(f);
    for (double deadline = now() + 20;;) {
        while (adapter->receive_consumer == *taken)
            wait_for(f, QUEUE_VECTOR, deadline, "a frame");
        __sync_synchronize();
        struct descriptor *slot = (struct descriptor *)(f->memory + RECEIVE) + *taken % RING;
        uint8_t *buffer = f->memory + RECEIVED + *taken % RING * BUFFER;
        int found = buffer[12] == 0x88 && buffer[13] == 0xB5;
        if (found && (slot->size != length || memcmp(buffer, frame, length) != 0))
            fail("%s: a frame of %zu bytes arrived as another of %u", f->address, length, slot->size);
        slot->size = BUFFER;
        ++*taken;
        __sync_synchronize();
        indexes(f)->receive_producer = *taken + RING;
        if (found)
            return;
    }
}

static void test_frames(struct function *f, struct function *g)
{
    uint32_t taken[2] = { 0, 0 };
    struct function *both[] = { f, g };
    create_queues(f);
    create_queues(g);
    for (int i = 0; i < 3 * RING; i++) {
        struct function *from = both[i % 2], *to = both[1 - i % 2];
        size_t length = 60 + i * 31 % 1455;
        uint8_t *frame = from->memory + SENT + indexes(from)->transmit_producer % RING * BUFFER;
        send_frame(from, get(to, MAC), length);
        receive_frame(to, &taken[1 - i % 2], frame, length);
    }
    // To all, the host's network part among them.
    send_frame(f, 0xFFFFFFFFFFFF, 100);
    receive_frame(g, &taken[1], f->memory + SENT + (indexes(f)->transmit_producer - 1) % RING * BUFFER, 100);
    for (int i = 0; i < 2; i++) {
        if (indexes(both[i])->error != 0 || indexes(both[i])->dropped != 0)
            fail("%s: queue error %u, %u frames dropped", both[i]->address, indexes(both[i])->error, indexes(both[i])->dropped);
        run_well(both[i], DESTROY_QUEUE_SET, both[i]->set, 0, 0, 0, 0);
    }
    puts("frames");
}

static int is_idle(struct function *f)
{
    return get(f, STATUS) == LINK_UP && get(f, COMMAND_BASE) == 0 && get(f, EVENT_BASE) == 0 && get(f, COMMAND_CONSUMER) == 0;
}

static void test_reset(struct function *f)
{
    if (is_idle(f))
        fail("%s is idle already", f->address);
    check(ioctl(f->device, VFIO_DEVICE_RESET) == 0, "VFIO_DEVICE_RESET");
    if (!is_idle(f))
        fail("%s is not as after power-on: status %#lx, command ring at %#lx", f->address, get(f, STATUS), get(f, COMMAND_BASE));
    // The memory that it could reach, it still can.
    enable(f);
    copy(f, 0, 0, 4096);
    puts("reset");
}

// The memory goes away under the function: its access is refused, and when it is back all goes on.
static void test_unmap(struct function *f)
{
    struct vfio_iommu_type1_dma_unmap unmap = { sizeof unmap, 0, f->bus_address + TARGET, COPY_SIZE };
    struct vfio_iommu_type1_dma_map whole = { sizeof whole, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE, (uintptr_t)f->memory, f->bus_address, MEMORY };
    unmap.iova = f->bus_address;
    unmap.size = MEMORY;
    disable(f);
    check(ioctl(f->container, VFIO_IOMMU_UNMAP_DMA, &unmap) == 0, "VFIO_IOMMU_UNMAP_DMA");
    whole.size = TARGET;
    check(ioctl(f->container, VFIO_IOMMU_MAP_DMA, &whole) == 0, "VFIO_IOMMU_MAP_DMA");
    enable(f);
    if (run(f, COPY, 0, f->bus_address + SOURCE, f->bus_address + TARGET, 4096, 0).status != EFAULT)
        fail("%s: a copy to memory that is not mapped was not refused", f->address);
    struct vfio_iommu_type1_dma_map rest = { sizeof rest, whole.flags, (uintptr_t)f->memory + TARGET, f->bus_address + TARGET, MEMORY - TARGET };
    check(ioctl(f->container, VFIO_IOMMU_MAP_DMA, &rest) == 0, "VFIO_IOMMU_MAP_DMA");
    copy(f, 0, 0, 4096);
    puts("unmap");
}

int main(int count, char **words)
{
    struct function functions[2] = { 0 };
    if (count < 3 || count > 4)
        fail("usage: vf_test phys|vfio|start|idle|loop BDF [BDF]");
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *mode = words[1];
    for (int i = 2; i < count; i++) {
        functions[i - 2].address = words[i];
        if (strcmp(mode, "vfio") == 0)
            open_vfio(&functions[i - 2], i);
        else
            open_phys(&functions[i - 2]);
    }
    struct function *f = &functions[0];
    if (strcmp(mode, "start") == 0) {
        enable(f);
        copy(f, 0, 0, 64);
        puts("started");
        return 0;
    }
    if (strcmp(mode, "idle") == 0) {
        puts(is_idle(f) ? "idle" : "busy");
        return 0;
    }
    if (strcmp(mode, "loop") == 0) {
        enable(f);
        for (uint64_t i = 0;; i++) {
            copy(f, i % 4096, i % 512, 1 + i * 37 % 50000);
            if (i == 0)
                puts("running");
        }
    }
    for (int i = 0; i < count - 2; i++)
        test_commands(&functions[i]);
    if (count == 4)
        test_frames(&functions[0], &functions[1]);
    if (strcmp(mode, "vfio") == 0) {
        test_unmap(f);
        test_reset(f);
    }
    for (int i = 0; i < count - 2; i++)
        disable(&functions[i]);
    puts("done");
    return 0;
}
