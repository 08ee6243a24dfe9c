using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

public sealed class PlatformTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");

    public void Dispose() => _folder.Delete(recursive: true);

    private string Socket => Path.Combine(_folder.FullName, "socket");

    [Fact]
    public void Descriptors_travel_with_the_first_byte_of_what_was_sent_with_them()
    {
        var (left, right) = UnixStream.CreatePair();
        using var eventFd = new EventFd();
        Assert.Equal(3, left.Send("abc"u8, [], out _));
        Assert.Equal(3, left.Send("def"u8, [eventFd.Descriptor, eventFd.Descriptor], out _));
        List<FileDescriptor> received = [];
        var buffer = new byte[3];
        Assert.Equal(3, right.Receive(buffer, received, out _));
        Assert.Empty(received);
        Assert.Equal(3, right.Receive(buffer, received, out _));
        Assert.Equal(2, received.Count);
        Assert.True(EventFd.TryAdopt(received[0], out var adopted, out _));
        adopted!.Signal();
        Assert.True(eventFd.TryRead(out var count));
        Assert.Equal(1u, count);
        Assert.False(eventFd.TryRead(out _));
        Assert.Equal(-1, right.Receive(buffer, received, out var error));
        Assert.Equal(Errno.EAGAIN, error);
        left.Dispose();
        Assert.Equal(0, right.Receive(buffer, received, out _));
        received.ForEach(descriptor => descriptor.Dispose());
        right.Dispose();
    }

    [Fact]
    public void Descriptor_that_its_owner_closed_is_not_sent_and_the_others_stay_their_owners()
    {
        var (left, right) = UnixStream.CreatePair();
        using (left)
        using (right)
        {
            using var open = new EventFd();
            var closed = new EventFd();
            closed.Dispose();
            Assert.Equal(-1, left.Send([1], [open.Descriptor, closed.Descriptor], out var error));
            Assert.Equal(Errno.EBADF, error);
            Assert.Equal(1, left.Send([2], [open.Descriptor], out _));
            open.Dispose();
            Assert.True(open.Descriptor.IsClosed);
            List<FileDescriptor> came = [];
            var bytes = new byte[4];
            Assert.Equal(1, right.Receive(bytes, came, out _));
            Assert.Equal(2, bytes[0]);
            Assert.Single(came).Dispose();
        }
    }

    [Fact]
    public void Socket_file_is_for_its_owner_only_and_goes_with_the_listener()
    {
        using (UnixListener.Listen(Socket))
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Socket));
        Assert.False(File.Exists(Socket));
    }

    [Fact]
    public void Socket_of_a_dead_process_is_taken_over()
    {
        var dead = UnixListener.Listen(Socket);
        dead.Descriptor.Dispose();
        Assert.True(File.Exists(Socket));
        using var listener = UnixListener.Listen(Socket);
        using var client = UnixStream.TryConnect(Socket, out _);
        Assert.NotNull(client);
    }

    [Fact]
    public void Live_socket_is_not_taken_over()
    {
        using var live = UnixListener.Listen(Socket);
        var error = Assert.Throws<VirtbusException>(() => UnixListener.Listen(Socket));
        Assert.Equal(Errno.EADDRINUSE, error.Errno);
        Assert.Contains(Socket, error.Message, StringComparison.Ordinal);
        using var client = UnixStream.TryConnect(Socket, out _);
        Assert.NotNull(client);
    }

    [Fact]
    public void Paths_that_cannot_be_a_socket_are_told_apart()
    {
        File.WriteAllText(Socket, "");
        Assert.Equal(Errno.EEXIST, Assert.Throws<VirtbusException>(() => UnixListener.Listen(Socket)).Errno);
        Assert.Equal(Errno.ENOENT, Assert.Throws<VirtbusException>(() => UnixListener.Listen(Path.Combine(_folder.FullName, "none", "socket"))).Errno);
        Assert.Equal(Errno.ENAMETOOLONG, Assert.Throws<VirtbusException>(() => UnixListener.Listen("/" + new string('x', 108))).Errno);
    }

    [Fact]
    public void Only_an_eventfd_is_taken_for_one()
    {
        var before = Kernel.DescriptorsBefore();
        using (var file = MemoryFile.Create("virtbus-test", 8))
            Assert.False(EventFd.TryAdopt(file, out _, out _));
        Assert.Equal(before, Kernel.Descriptors);
    }

    [Fact]
    public async Task Signals_are_waited_for_and_taken()
    {
        using var signal = new EventFd();
        Assert.False(signal.Wait(TimeSpan.Zero));
        signal.Signal();
        signal.Signal();
        Assert.True(signal.Wait(TimeSpan.FromSeconds(30)));
        Assert.False(signal.TryRead(out _));
        var waiting = Task.Run(() => signal.Wait(Deadline.Limit));
        signal.Signal();
        Assert.True(await waiting.WaitAsync(TimeSpan.FromSeconds(30)));
    }

    [Fact]
    public void Signals_of_a_peers_eventfd_are_all_counted_whoever_signals()
    {
        using var peers = new EventFd();
        Assert.True(EventFd.TryAdopt(peers.Descriptor.Duplicate(), out var ours, out _));
        using (ours)
        {
            // More than the kernel keeps places for.
            const int Threads = 4, Each = 5000;
            var threads = Enumerable.Range(0, Threads).Select(_ => new Thread(() =>
            {
                for (var i = 0; i < Each; i++)
                    ours!.Signal();
            }) { IsBackground = true }).ToArray();
            Array.ForEach(threads, t => t.Start());
            Array.ForEach(threads, t => t.Ends("a thread with 5000 signals"));
            Assert.True(peers.TryRead(out var count));
            Assert.Equal((ulong)(Threads * Each), count);
        }
    }

    [Fact]
    public async Task Signal_of_an_eventfd_that_its_peer_filled_and_made_blocking_does_not_wait()
    {
        using var peers = new EventFd();
        Assert.True(EventFd.TryAdopt(peers.Descriptor.Duplicate(), out var adopted, out _));
        using (adopted)
        using (var ours = adopted!.Duplicate())
        {
            Blocking.Fill(peers);
            await Task.Run(() =>
            {
                for (var i = 0; i < 500; i++)
                    ours.Signal();
            }).WaitAsync(TimeSpan.FromSeconds(60));
            Assert.True(peers.TryRead(out var count));
            Assert.Equal(ulong.MaxValue, count);
        }
    }

    [Fact]
    public void Kernel_adds_more_signals_than_it_keeps_places_for()
    {
        Assert.SkipUnless(KernelSignal.IsThere, "the kernel has no Linux AIO, or forbids it");
        using var signal = new EventFd();
        for (var i = 0; i < 1000; i++)
            Assert.True(KernelSignal.TryAdd(signal.Descriptor));
        Assert.True(signal.TryRead(out var count));
        Assert.Equal(1000u, count);
    }

    [Fact]
    public async Task Where_the_kernel_does_not_add_a_full_eventfd_is_left_as_it_is_and_another_is_written_to()
    {
        using var peers = new EventFd();
        Assert.True(EventFd.TryAdopt(peers.Descriptor.Duplicate(), out var ours, out _));
        using (ours)
        {
            ours!.SignalWhereThereIsRoom();
            ours.SignalWhereThereIsRoom();
            Assert.True(peers.TryRead(out var count));
            Assert.Equal(2u, count);
            Blocking.Fill(peers);
            await Task.Run(ours.SignalWhereThereIsRoom).WaitAsync(TimeSpan.FromSeconds(60));
            Assert.True(peers.TryRead(out count));
            Assert.Equal(ulong.MaxValue - 1, count);
        }
    }

    [Fact]
    public void Lines_beyond_the_most_of_a_span_are_counted_and_told_of_with_the_first_of_the_next()
    {
        var clock = new StandingClock();
        var limiter = new LogLimiter(clock, 3, TimeSpan.FromSeconds(10));
        for (var i = 0; i < 8; i++)
            Assert.Equal((i < 3, Math.Max(0, i - 3)), (limiter.TryTake(out var before), (int)before));
        clock.Seconds = 9.9;
        Assert.False(limiter.TryTake(out _));
        // The second line of a pair is written in any case: it is none that was left out, and does not tell of those that were.
        Assert.Equal((true, 0), (limiter.TryTake(out var due, isDue: true), (int)due));
        clock.Seconds = 10;
        Assert.True(limiter.TryTake(out var suppressed, isDue: true));
        Assert.Equal(6, suppressed);
        Assert.True(limiter.TryTake(out suppressed));
        Assert.Equal(0, suppressed);
    }

    [Fact]
    public void Name_that_a_process_gives_itself_is_escaped_where_it_is_told()
    {
        var path = Path.Combine(_folder.FullName, "a\nb\u001b[2J");
        File.CreateSymbolicLink(path, "/bin/sh");
        var start = new System.Diagnostics.ProcessStartInfo(path, ["-c", "read line"]) { RedirectStandardInput = true, UseShellExecute = false };
        using var child = System.Diagnostics.Process.Start(start)!;
        using (var process = new PeerProcess(child.Id, PeerProcess.OpenByNumber(child.Id)))
            Deadline.Until(() => process.Name == $@"process {child.Id} (a\nb\x1b[2J)", "the name");
        child.Kill();
        child.Ends();
    }

    [Fact]
    public void Acceptor_goes_on_though_it_can_not_tell_of_what_failed()
    {
        using var served = new ManualResetEventSlim();
        var failures = 0;
        var acceptor = new Transports.ConnectionAcceptor(UnixListener.Listen(Socket), "test-service", TimeProvider.System, Serve, Failed);
        ServiceThread.Refuses = static name => name == "test-service";
        try
        {
            acceptor.Start();
            using var first = UnixStream.TryConnect(Socket, out _);
            Deadline.Until(() => Volatile.Read(ref failures) == 1, "a connection without a thread");
        }
        finally
        {
            ServiceThread.Refuses = null;
        }

        using (UnixStream.TryConnect(Socket, out _))
            Assert.True(served.Wait(Deadline.Milliseconds));
        acceptor.StopAsync().Ends("the stop");
        Assert.Equal(1, failures);

        void Serve(UnixStream stream)
        {
            stream.Dispose();
            served.Set();
        }

        // As a log does that finds its disk full.
        void Failed(Errno error)
        {
            Interlocked.Increment(ref failures);
            throw new IOException("full");
        }
    }

    [Fact]
    public void Acceptor_serves_as_many_at_once_as_it_was_told_to()
    {
        using var release = new ManualResetEventSlim();
        var served = 0;
        var acceptor = new Transports.ConnectionAcceptor(UnixListener.Listen(Socket), "test-several", TimeProvider.System, Serve, static _ => { }, most: 3);
        var clients = Enumerable.Range(0, 5).Select(_ => UnixStream.TryConnect(Socket, out var _)!).ToArray();
        acceptor.Start();
        Deadline.Until(() => Volatile.Read(ref served) > 0, "a connection");
        // It takes as many as it may in one go, and the stop waits for that.
        var stop = acceptor.StopAsync();
        Assert.False(stop.IsCompleted);
        release.Set();
        stop.Ends("the stop");
        Assert.Equal(3, served);
        Array.ForEach(clients, static c => c.Dispose());

        void Serve(UnixStream stream)
        {
            Interlocked.Increment(ref served);
            release.Wait(Deadline.Milliseconds);
            stream.Dispose();
        }
    }

    [Fact]
    public void Sealed_memory_file_cannot_shrink()
    {
        using var sealedFile = MemoryFile.Create("virtbus-test", 4096);
        using var open = MemoryFile.Create("virtbus-test", 4096, sealedSize: false);
        using var sealable = new FileDescriptor(Libc.memfd_create("virtbus-test", Libc.MFD_ALLOW_SEALING | Libc.MFD_CLOEXEC));
        Assert.Equal(0, Libc.ftruncate(sealable, 4096));
        Assert.True(sealedFile.TrySealShrink());
        Assert.True(sealable.TrySealShrink());
        Assert.NotEqual(0, Libc.ftruncate(sealable, 0));
        Assert.False(open.TrySealShrink());
    }
}
