// Moves and looks at network traffic in a guest.
//
//   net_test serve PORT BYTES FLOWS        takes FLOWS connections; on each receives BYTES and compares them, then sends BYTES
//   net_test talk ADDRESS PORT BYTES FLOWS the other end: sends first, then receives and compares
//   net_test sniff INTERFACE               counts TCP frames that come in until it is told to end (SIGTERM), and prints what they were:
//                                          "long N short N wrong N open N": above the MTU's 1514 bytes, not above, with a wrong
//                                          checksum, with one that is still to be put in
//   net_test plain INTERFACE               has the guest join no segments that come in (GRO off), so that a sniffer sees them as they came
//   net_test hear INTERFACE TYPE           waits for a frame of an EtherType (hexadecimal) and prints its length and the sum of its bytes
//   net_test say INTERFACE TYPE LENGTH TO  sends one with such bytes to an address
//
// The bytes of a flow are those of a generator that both ends know. The first thing that is not right ends it with a sentence and code 1.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 256 << 10 };

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "net_test: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state ^ *state >> 29;
}

static void fill(uint64_t *state, uint64_t *words)
{
    for (int i = 0; i < CHUNK / 8; i++)
        words[i] = next(state);
}

static void send_all(int socket, uint64_t seed, uint64_t bytes)
{
    static uint64_t words[CHUNK / 8];
    for (uint64_t done = 0; done < bytes; done += CHUNK)
    {
        fill(&seed, words);
        for (size_t sent = 0; sent < CHUNK;)
        {
            ssize_t count = send(socket, (char *)words + sent, CHUNK - sent, MSG_NOSIGNAL);
            if (count <= 0)
                die("send after %llu bytes: %s", (unsigned long long)(done + sent), strerror(errno));
            sent += count;
        }
    }
}

static void receive_all(int socket, uint64_t seed, uint64_t bytes)
{
    static uint64_t words[CHUNK / 8], read[CHUNK / 8];
    for (uint64_t done = 0; done < bytes; done += CHUNK)
    {
        ssize_t count = recv(socket, read, CHUNK, MSG_WAITALL);
        if (count != CHUNK)
            die("recv after %llu bytes: %zd %s", (unsigned long long)done, count, strerror(errno));
        fill(&seed, words);
        if (memcmp(words, read, CHUNK))
            die("the bytes behind %llu are others", (unsigned long long)done);
    }
}

// Whole chunks; at least one.
static uint64_t size_of(const char *text)
{
    uint64_t bytes = strtoull(text, NULL, 0);
    return bytes < CHUNK ? CHUNK : bytes / CHUNK * CHUNK;
}

static void wait_all(int flows)
{
    while (flows--)
    {
        int status;
        if (wait(&status) < 0 || status)
            die("a flow failed");
    }
    puts("same");
}

static void serve(int port, uint64_t bytes, int flows)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 64))
        die("listen: %s", strerror(errno));
    puts("listening");
    fflush(stdout);
    for (int i = 0; i < flows; i++)
    {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0)
            die("accept: %s", strerror(errno));
        if (fork())
        {
            close(peer);
            continue;
        }
        receive_all(peer, 1, bytes);
        send_all(peer, 2, bytes);
        _exit(0);
    }
    wait_all(flows);
}

static void talk(const char *address, int port, uint64_t bytes, int flows)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
        die("%s is no address", address);
    for (int i = 0; i < flows; i++)
    {
        if (fork())
            continue;
        int peer = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(peer, (struct sockaddr *)&to, sizeof to))
            die("connect: %s", strerror(errno));
        send_all(peer, 1, bytes);
        receive_all(peer, 2, bytes);
        _exit(0);
    }
    wait_all(flows);
}

static int packet_socket(const char *interface, int type)
{
    int packets = socket(AF_PACKET, SOCK_RAW, htons(type));
    struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(type), .sll_ifindex = if_nametoindex(interface) };
    if (packets < 0 || bind(packets, (struct sockaddr *)&at, sizeof at))
        die("packet socket of %s: %s", interface, strerror(errno));
    return packets;
}

static volatile sig_atomic_t over;

static void end(int signal)
{
    over = signal;
}

static uint32_t add(uint32_t sum, const uint8_t *bytes, int count)
{
    for (int i = 0; i < count; i++)
        sum += i & 1 ? bytes[i] : (uint32_t)bytes[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return sum;
}

static void sniff(const char *interface)
{
    static uint8_t frame[70000];
    unsigned long longs = 0, shorts = 0, wrong = 0, open = 0;
    int packets = packet_socket(interface, ETH_P_IP), on = 1, room = 64 << 20;
    setsockopt(packets, SOL_PACKET, PACKET_AUXDATA, &on, sizeof on);
    setsockopt(packets, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    struct sigaction action = { .sa_handler = end };
    sigaction(SIGTERM, &action, NULL);
    puts("sniffing");
    fflush(stdout);
    while (!over)
    {
        char control[256];
        struct sockaddr_ll from;
        struct iovec part = { frame, sizeof frame };
        struct msghdr message = { .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
        ssize_t length = recvmsg(packets, &message, 0);
        if (length < 54 || from.sll_pkttype == PACKET_OUTGOING || frame[23] != IPPROTO_TCP)
            continue;
        int header = (frame[14] & 15) * 4, total = frame[16] << 8 | frame[17], segment = total - header;
        *(length > 1514 ? &longs : &shorts) += 1;
        struct cmsghdr *data = CMSG_FIRSTHDR(&message);
        if (data && data->cmsg_type == PACKET_AUXDATA && ((struct tpacket_auxdata *)CMSG_DATA(data))->tp_status & TP_STATUS_CSUMNOTREADY)
        {
            open++;
            continue;
        }
        uint32_t sum = add(IPPROTO_TCP + segment, frame + 26, 8);
        if (14 + total > length || add(frame[14] ? 0 : 1, frame + 14, header) != 0xFFFF || add(sum, frame + 14 + header, segment) != 0xFFFF)
            wrong++;
    }
    printf("long %lu short %lu wrong %lu open %lu\n", longs, shorts, wrong, open);
}

static void plain(const char *interface)
{
    struct ethtool_value value = { .cmd = ETHTOOL_SGRO };
    struct ifreq request = { .ifr_data = (void *)&value };
    strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    if (ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCETHTOOL, &request))
        die("GRO of %s: %s", interface, strerror(errno));
}

static void hear(const char *interface, int type)
{
    static uint8_t frame[70000];
    int packets = packet_socket(interface, type);
    puts("hearing");
    fflush(stdout);
    for (;;)
    {
        struct sockaddr_ll from;
        socklen_t size = sizeof from;
        ssize_t length = recvfrom(packets, frame, sizeof frame, 0, (struct sockaddr *)&from, &size);
        if (length < 0)
            die("recv: %s", strerror(errno));
        if (from.sll_pkttype == PACKET_OUTGOING)
            continue;
        unsigned long sum = 0;
        for (ssize_t i = 14; i < length; i++)
            sum += frame[i];
        printf("%zd %lu\n", length, sum);
        return;
    }
}

static void say(const char *interface, int type, int length, const char *to)
{
    static uint8_t frame[70000];
    int packets = packet_socket(interface, type);
    unsigned address[6];
    if (sscanf(to, "%x:%x:%x:%x:%x:%x", address, address + 1, address + 2, address + 3, address + 4, address + 5) != 6)
        die("%s is no address", to);
    for (int i = 0; i < 6; i++)
        frame[i] = address[i];
    frame[6] = 2;
    frame[12] = type >> 8;
    frame[13] = type;
    for (int i = 14; i < length; i++)
        frame[i] = i * 7;
    if (send(packets, frame, length, 0) != length)
        die("send: %s", strerror(errno));
}

int main(int count, char **words)
{
    if (count == 5 && !strcmp(words[1], "serve"))
        serve(atoi(words[2]), size_of(words[3]), atoi(words[4]));
    else if (count == 6 && !strcmp(words[1], "talk"))
        talk(words[2], atoi(words[3]), size_of(words[4]), atoi(words[5]));
    else if (count == 3 && !strcmp(words[1], "sniff"))
        sniff(words[2]);
    else if (count == 3 && !strcmp(words[1], "plain"))
        plain(words[2]);
    else if (count == 4 && !strcmp(words[1], "hear"))
        hear(words[2], strtol(words[3], NULL, 16));
    else if (count == 6 && !strcmp(words[1], "say"))
        say(words[2], strtol(words[3], NULL, 16), atoi(words[4]), words[5]);
    else
        die("the head of its source says what it takes");
    return 0;
}
