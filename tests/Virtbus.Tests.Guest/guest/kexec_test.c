// Has a guest's kernel jump into another one, as kexec(8) does; the devices stay as they are in the middle of their work.
//
//   kexec_test KERNEL INITRD WORD   the other kernel's command line is this one's and WORD
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fail(const char *what)
{
    fprintf(stderr, "kexec_test: %s: %s\n", what, strerror(errno));
    return 1;
}

int main(int count, char **words)
{
    static char line[4096];
    if (count != 4)
        return fail("the head of its source says what it takes");
    int kernel = open(words[1], O_RDONLY), initrd = open(words[2], O_RDONLY), own = open("/proc/cmdline", O_RDONLY);
    ssize_t length = read(own, line, sizeof line - 256);
    if (kernel < 0 || initrd < 0 || length < 1)
        return fail("open");
    // Instead of the newline.
    snprintf(line + length - 1, 256, " %s", words[3]);
    if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(line) + 1, line, 0))
        return fail("kexec_file_load");
    syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
    return fail("reboot");
}
