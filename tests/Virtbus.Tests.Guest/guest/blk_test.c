// Works on a disk in a guest and knows what must be on it.
//
//   blk_test verify DEVICE REQUESTS DEPTH SEED  on each processor a process that has a part of the disk to itself keeps DEPTH requests under
//                                               way in it: reads, which it compares, and writes, of 1 to 32 sectors at any place, flushes,
//                                               and now and then zeros or a discard; in the end it reads all of it. The disk is zero before
//
// The bytes of a sector are those of its number and of the write that wrote it last. The first thing that is not right ends it with a sentence
// and code 1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECTOR = 512, MOST = 32, ROOM = MOST * SECTOR, MAX_DEPTH = 256 };

// What a sector holds instead of the bytes of a write: zeros, or after a discard what the disk likes.
enum { ZERO = 0, ANY = UINT32_MAX };

struct request {
    struct iocb block;
    uint64_t *words;
    uint64_t first;
    uint32_t count, write;
};

static int disk;
static uint64_t begin, sectors, state;
static uint32_t *written;
static uint8_t *busy;

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "blk_test: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static uint64_t next(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 24 ^ state >> 41;
}

static void fill(uint64_t sector, uint32_t write, uint64_t *words)
{
    uint64_t word = (sector << 32 | write) * 0x9E3779B97F4A7C15u;
    for (int i = 0; i < SECTOR / 8; i++)
    {
        word += 0xD1B54A32D192ED03u;
        words[i] = write == ZERO ? 0 : word ^ word >> 29;
    }
}

static void compare(uint64_t first, uint32_t count, const uint64_t *words)
{
    uint64_t expected[SECTOR / 8];
    for (uint32_t i = 0; i < count; i++)
    {
        uint32_t write = written[first + i];
        fill(begin + first + i, write, expected);
        if (write != ANY && memcmp(expected, words + i * (SECTOR / 8), SECTOR))
            die("sector %llu is not as write %u left it", (unsigned long long)(begin + first + i), write);
    }
}

// A run of sectors that no request has.
static uint32_t choose(uint64_t *first, uint32_t most)
{
    for (;;)
    {
        uint32_t count = 1 + next() % most;
        *first = next() % (sectors - count);
        if (!memchr(busy + *first, 1, count))
            return count;
    }
}

static void submit(aio_context_t context, struct request *request, uint32_t number)
{
    uint64_t kind = next() % 100;
    memset(&request->block, 0, sizeof request->block);
    request->block.aio_fildes = disk;
    request->block.aio_data = (uintptr_t)request;
    request->count = 0;
    request->write = 0;
    if (kind == 0)
    {
        request->block.aio_lio_opcode = IOCB_CMD_FDSYNC;
    }
    else
    {
        request->count = choose(&request->first, MOST);
        memset(busy + request->first, 1, request->count);
        request->write = kind < 60 ? number : 0;
        for (uint32_t i = 0; request->write && i < request->count; i++)
            fill(begin + request->first + i, number, request->words + i * (SECTOR / 8));
        request->block.aio_lio_opcode = request->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
        request->block.aio_buf = (uintptr_t)request->words;
        request->block.aio_nbytes = request->count * SECTOR;
        request->block.aio_offset = (begin + request->first) * SECTOR;
    }
    struct iocb *one = &request->block;
    if (syscall(SYS_io_submit, context, 1, &one) != 1)
        die("io_submit: %s", strerror(errno));
}

static void finish(struct request *request, int64_t result)
{
    if (result != (int64_t)request->block.aio_nbytes)
        die("request %d at sector %llu: %s", request->block.aio_lio_opcode, (unsigned long long)(begin + request->first), result < 0 ? strerror(-result) : "short");
    for (uint32_t i = 0; request->write && i < request->count; i++)
        written[request->first + i] = request->write;
    if (request->count && !request->write)
        compare(request->first, request->count, request->words);
    memset(busy + request->first, 0, request->count);
}

// Zeros or a discard beside the requests that are under way.
static void clear(int operation, uint32_t becomes)
{
    uint64_t first;
    uint32_t count = choose(&first, 2048);
    uint64_t range[2] = { (begin + first) * SECTOR, (uint64_t)count * SECTOR };
    if (ioctl(disk, operation, range))
        die("ioctl %#x at sector %llu: %s", operation, (unsigned long long)(begin + first), strerror(errno));
    for (uint32_t i = 0; i < count; i++)
        written[first + i] = becomes;
}

static void verify(uint32_t requests, int depth)
{
    static struct request all[MAX_DEPTH];
    aio_context_t context = 0;
    written = calloc(sectors, sizeof *written);
    busy = calloc(sectors, 1);
    if (!written || !busy || syscall(SYS_io_setup, depth, &context))
        die("no room for %d requests: %s", depth, strerror(errno));
    uint32_t number = 0, done = 0;
    while (number < (uint32_t)depth)
    {
        if (posix_memalign((void **)&all[number].words, 4096, ROOM))
            die("no memory");
        submit(context, &all[number], number + 1);
        number++;
    }
    while (done < requests)
    {
        struct io_event events[MAX_DEPTH];
        int count = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
        if (count < 1)
            die("io_getevents: %s", strerror(errno));
        for (int i = 0; i < count; i++, done++)
        {
            struct request *request = (struct request *)(uintptr_t)events[i].data;
            finish(request, events[i].res);
            if (number < requests)
                submit(context, request, ++number);
        }
        uint64_t kind = next() % 64;
        if (kind < 2)
            clear(kind ? BLKZEROOUT : BLKDISCARD, kind ? ZERO : ANY);
    }
    for (uint64_t first = 0; first < sectors; first += MOST)
    {
        uint32_t count = sectors - first < MOST ? sectors - first : MOST;
        if (pread(disk, all[0].words, count * SECTOR, (begin + first) * SECTOR) != (ssize_t)count * SECTOR)
            die("read at sector %llu: %s", (unsigned long long)(begin + first), strerror(errno));
        compare(first, count, all[0].words);
    }
}

int main(int count, char **words)
{
    if (count != 6 || strcmp(words[1], "verify"))
        die("the head of its source says what it takes");
    uint64_t bytes;
    disk = open(words[2], O_RDWR | O_DIRECT);
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &bytes))
        die("%s: %s", words[2], strerror(errno));
    int depth = atoi(words[4]), processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (depth < 1 || depth > MAX_DEPTH)
        die("depth %d", depth);
    sectors = bytes / SECTOR / processors;
    for (int i = 0; i < processors; i++)
    {
        if (fork())
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(i, &one);
        sched_setaffinity(0, sizeof one, &one);
        begin = i * sectors;
        state = strtoull(words[5], NULL, 0) + i;
        verify(strtoul(words[3], NULL, 0), depth);
        _exit(0);
    }
    for (int i = 0; i < processors; i++)
    {
        int status;
        if (wait(&status) < 0 || status)
            die("a part is not as it should be");
    }
    puts("verified");
    return 0;
}
