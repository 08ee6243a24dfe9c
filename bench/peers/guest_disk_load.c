/*
 * What a guest loads a disk with, for the guest-disk bench: random reads of 4 KiB past the page cache, so many at once, by the kernel's own asynchronous I/O.
 *
 *   guest_disk_load DEVICE DEPTH SECONDS
 *
 * It prints "begin" once the disk answers, and then "end COUNT NANOSECONDS" of the reads in between.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define MAX_DEPTH 256

static struct iocb blocks[MAX_DEPTH];
static struct io_event done[MAX_DEPTH];
static uint64_t seed = 88172645463325252u;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static uint64_t next(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

int main(int count, char **words)
{
    if (count != 4 || atoi(words[2]) < 1 || atoi(words[2]) > MAX_DEPTH)
        return 2;
    int depth = atoi(words[2]), disk = open(words[1], O_RDONLY | O_DIRECT);
    uint64_t size, begin = 0, end = 0, reads = 0;
    aio_context_t context = 0;
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &size))
        die(words[1]);
    if (syscall(SYS_io_setup, depth, &context))
        die("io_setup");
    struct iocb *ready[MAX_DEPTH];
    int given = depth;
    for (int i = 0; i < depth; i++) {
        void *memory;
        if (posix_memalign(&memory, BLOCK, BLOCK))
            die("memory");
        blocks[i].aio_fildes = disk;
        blocks[i].aio_lio_opcode = IOCB_CMD_PREAD;
        blocks[i].aio_buf = (uintptr_t)memory;
        blocks[i].aio_nbytes = BLOCK;
        ready[i] = &blocks[i];
    }
    do {
        for (int i = 0; i < given; i++)
            ready[i]->aio_offset = next() % (size / BLOCK) * BLOCK;
        if (syscall(SYS_io_submit, context, given, ready) != given)
            die("io_submit");
        given = syscall(SYS_io_getevents, context, 1, depth, done, NULL);
        if (given < 1)
            die("io_getevents");
        for (int i = 0; i < given; i++) {
            ready[i] = (struct iocb *)(uintptr_t)done[i].obj;
            if (done[i].res != BLOCK)
                die("a read");
        }
        end = now();
        if (!begin) {
            begin = end;
            puts("begin");
            fflush(stdout);
            continue;
        }
        reads += given;
    } while (end - begin < atoi(words[3]) * 1000000000ull);
    printf("end %llu %llu\n", (unsigned long long)reads, (unsigned long long)(end - begin));
    return 0;
}
