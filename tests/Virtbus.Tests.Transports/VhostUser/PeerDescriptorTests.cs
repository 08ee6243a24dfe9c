using System.Diagnostics;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Virtbus.Platform;
using static Virtbus.Wire.VhostUser.VhostUserRequest;
using static Virtbus.Tests.FrontEnd;

namespace Virtbus.Tests.Transports.VhostUser;

/// <summary>Descriptors that peers send: how many stay, and who closes them.</summary>
public sealed class PeerDescriptorTests : IDisposable
{
    private static readonly TimeSpan _soon = TimeSpan.FromSeconds(10);
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");

    public void Dispose()
    {
        Assert.True(PeerDescriptors.WaitUntilClosed(_soon), "a descriptor is being closed still");
        _folder.Delete(recursive: true);
    }

    [Fact]
    public void Close_that_waits_holds_up_nobody()
    {
        var (left, right) = UnixStream.CreatePair();
        var (other, another) = UnixStream.CreatePair();
        var before = PeerDescriptors.TotalOpen;
        using (var lingering = new Lingering())
        {
            var received = Pass(left, right, lingering.Descriptor);
            lingering.Forget();
            var start = Stopwatch.GetTimestamp();
            received.Dispose();
            Assert.InRange(Stopwatch.GetElapsedTime(start), TimeSpan.Zero, _soon);
            Assert.Equal(1, PeerDescriptors.TotalClosing);
            // One of another socket is closed meanwhile.
            var path = Path.Combine(_folder.FullName, "file");
            File.WriteAllText(path, "");
            using (var file = FileDescriptor.TryOpen(path, writable: false, out _)!)
                Pass(other, another, file).Dispose();
            Deadline.Until(() => PeerDescriptors.TotalClosing == 1, "the close of the file");
        }

        Assert.True(PeerDescriptors.WaitUntilClosed(_soon));
        left.Dispose();
        right.Dispose();
        other.Dispose();
        another.Dispose();
        Assert.True(PeerDescriptors.WaitUntilClosed(_soon));
        Assert.Equal(before - 4, PeerDescriptors.TotalOpen);
    }

    [Fact]
    public async Task Connection_with_unread_descriptors_is_closed_without_waiting_for_them()
    {
        var (left, right) = UnixStream.CreatePair();
        using (var lingering = new Lingering())
        {
            Assert.Equal(1, left.Send("x"u8, [lingering.Descriptor], out _));
            lingering.Forget();
            left.Dispose();
            await Task.Run(right.Dispose, TestContext.Current.CancellationToken).WaitAsync(_soon, TestContext.Current.CancellationToken);
            Assert.Equal(1, PeerDescriptors.TotalClosing);
        }
    }

    [Fact]
    public void Connection_with_nothing_unread_is_closed_at_once_and_not_behind_a_close_that_waits()
    {
        var (left, right) = UnixStream.CreatePair();
        using (var lingering = new Lingering())
        {
            var received = Pass(left, right, lingering.Descriptor);
            lingering.Forget();
            received.Dispose();
            Assert.Equal(1, PeerDescriptors.TotalClosing);
            right.Dispose();
            Assert.Equal(1, PeerDescriptors.TotalClosing);
        }

        left.Dispose();
    }

    [Fact]
    public void More_descriptors_than_a_message_may_carry_are_closed_and_none_waits_for_the_kernel()
    {
        var (left, right) = UnixStream.CreatePair();
        using var lingering = new Lingering();
        using var eventFd = new EventFd();
        var many = Enumerable.Repeat(eventFd.Descriptor, UnixStream.MaxDescriptors).ToArray();
        List<FileDescriptor> received = [];
        Assert.Equal(1, left.Send("x"u8, many, out _));
        Assert.Equal(1, right.Receive(new byte[1], received, out _));
        // The list is one message's: what comes with its next byte is too much.
        Assert.Equal(1, left.Send("x"u8, [lingering.Descriptor], out _));
        lingering.Forget();
        Assert.Equal(-1, right.Receive(new byte[1], received, out var error));
        Assert.Equal((Errno.EMSGSIZE, UnixStream.MaxDescriptors), (error, received.Count));
        Assert.Equal(1, PeerDescriptors.TotalClosing);
        received.ForEach(descriptor => descriptor.Dispose());
        left.Dispose();
        right.Dispose();
    }

    [Fact]
    public void Peers_of_one_socket_have_a_share_of_the_descriptors_and_not_more()
    {
        var (left, right) = UnixStream.CreatePair();
        using var eventFd = new EventFd();
        var many = Enumerable.Repeat(eventFd.Descriptor, UnixStream.MaxDescriptors).ToArray();
        List<FileDescriptor> kept = [];
        var error = Errno.None;
        for (var i = 0; i <= PeerDescriptors.Most / UnixStream.MaxDescriptors && error == Errno.None; i++)
        {
            List<FileDescriptor> received = [];
            Assert.Equal(1, left.Send("x"u8, many, out _));
            right.Receive(new byte[1], received, out error);
            kept.AddRange(received);
        }

        Assert.Equal(Errno.EMFILE, error);
        // The socket itself is one of them.
        Assert.Equal(PeerDescriptors.Most - 1, kept.Count);
        Assert.True(PeerDescriptors.Most <= PeerDescriptors.Ceiling / 4);
        kept.ForEach(descriptor => descriptor.Dispose());
        Assert.Equal(1, left.Send("x"u8, many, out _));
        kept.Clear();
        Assert.Equal(1, right.Receive(new byte[1], kept, out _));
        kept.ForEach(descriptor => descriptor.Dispose());
        left.Dispose();
        right.Dispose();
    }

    [Fact]
    public void Last_descriptor_of_a_share_has_room_and_none_after_it()
    {
        using var eventFd = new EventFd();
        var peers = new PeerDescriptors();
        var most = PeerDescriptors.Most;
        List<FileDescriptor> held = [];
        for (var i = 0; i < most - 1; i++)
            held.Add(new FileDescriptor(Libc.fcntl(eventFd.Descriptor, Libc.F_DUPFD_CLOEXEC, 0), peers));
        Assert.True(peers.HasRoom(eventFd.Descriptor));
        held.Add(new FileDescriptor(Libc.fcntl(eventFd.Descriptor, Libc.F_DUPFD_CLOEXEC, 0), peers));
        Assert.Equal((most, false), (peers.Open, peers.HasRoom(eventFd.Descriptor)));
        Assert.True(peers.Admits(0));
        held.Add(new FileDescriptor(Libc.fcntl(eventFd.Descriptor, Libc.F_DUPFD_CLOEXEC, 0), peers));
        Assert.False(peers.Admits(0));
        held.ForEach(descriptor => descriptor.Dispose());
        Assert.True(PeerDescriptors.WaitUntilClosed(_soon));
        Assert.Equal((0, true), (peers.Open, peers.HasRoom(eventFd.Descriptor)));
    }

    [Fact]
    public void Numbers_from_the_reserve_on_are_no_peers()
    {
        using var eventFd = new EventFd();
        var peers = new PeerDescriptors();
        var limit = Libc.GetDescriptorLimit();
        // What is free below the reserve is taken, but for one number.
        var low = Enumerable.Range(0, 64).Select(_ => Libc.fcntl(eventFd.Descriptor, Libc.F_DUPFD_CLOEXEC, 0)).ToList();
        try
        {
            // A limit of which the lowest free number, one after the last of these, is the last below the reserve, and then the first of it.
            var next = Libc.fcntl(eventFd.Descriptor, Libc.F_DUPFD_CLOEXEC, 0);
            _ = Libc.close(next);
            SetLimit(Limit(next + 1));
            Assert.Equal((next + 1, true), (PeerDescriptors.Ceiling, peers.HasRoom(eventFd.Descriptor)));
            SetLimit(Limit(next));
            Assert.Equal((next, false), (PeerDescriptors.Ceiling, peers.HasRoom(eventFd.Descriptor)));
            Assert.Equal((true, false), (peers.Admits(next - 1), peers.Admits(next)));
        }
        finally
        {
            SetLimit(limit);
            low.ForEach(number => _ = Libc.close(number));
        }

        // The smallest limit with a number of descriptors below the reserve.
        static int Limit(int ceiling) => Enumerable.Range(ceiling, PeerDescriptors.Reserve + 1).First(limit => limit - Math.Min(PeerDescriptors.Reserve, limit / 4) == ceiling);
    }

    [Fact]
    public void Descriptor_for_which_the_process_has_no_number_is_an_error_and_not_left_out()
    {
        var (left, right) = UnixStream.CreatePair();
        using var eventFd = new EventFd();
        var limit = Libc.GetDescriptorLimit();
        List<FileDescriptor> received = [];
        var buffer = new byte[1];
        var (count, error) = (0, Errno.None);
        // The first time is for what the runtime makes ready.
        for (var round = 0; round < 2; round++)
        {
            Assert.Equal(1, left.Send("x"u8, [eventFd.Descriptor], out _));
            var next = Libc.fcntl(eventFd.Descriptor, Libc.F_DUPFD_CLOEXEC, 0);
            _ = Libc.close(next);
            SetLimit(round == 0 ? limit : next);
            try
            {
                count = right.Receive(buffer, received, out error);
            }
            finally
            {
                SetLimit(limit);
            }

            Assert.Equal(round == 0 ? (1, Errno.None, 1) : (-1, Errno.EMFILE, 1), (count, error, received.Count));
        }

        received.ForEach(descriptor => descriptor.Dispose());
        left.Dispose();
        right.Dispose();
    }

    [Fact]
    public void What_no_thread_could_close_is_closed_with_the_next_one()
    {
        var (left, right) = UnixStream.CreatePair();
        var path = Path.Combine(_folder.FullName, "file");
        File.WriteAllText(path, "");
        using var file = FileDescriptor.TryOpen(path, writable: false, out _)!;
        var before = PeerDescriptors.TotalOpen;
        var (first, second) = (Pass(left, right, file), Pass(left, right, file));
        ServiceThread.Refuses = static name => name == "closer";
        try
        {
            first.Dispose();
        }
        finally
        {
            ServiceThread.Refuses = null;
        }

        Assert.Equal((1, before + 2), (PeerDescriptors.TotalClosing, PeerDescriptors.TotalOpen));
        second.Dispose();
        Assert.True(PeerDescriptors.WaitUntilClosed(_soon));
        Assert.Equal(before, PeerDescriptors.TotalOpen);
        left.Dispose();
        right.Dispose();
    }

    [Fact]
    public void Descriptors_do_not_pile_up_inside_a_payload()
    {
        using var fixture = new VhostUserFixture();
        using var front = new FrontEnd(fixture.Socket);
        Assert.NotNull(front.Ask(GET_FEATURES, []));
        var before = Kernel.DescriptorsBefore();
        var many = Enumerable.Repeat(front.Kick.Descriptor, UnixStream.MaxDescriptors).ToArray();
        front.SendRaw(Message(SET_MEM_TABLE, new byte[4000])[..12]);
        for (var i = 0; i < 100 && front.SendRaw([0], many); i++)
            Assert.InRange(PeerDescriptors.TotalOpen, 0, before + (3 * UnixStream.MaxDescriptors));
        front.ExpectClosed();
        fixture.WaitIdle(1);
        Assert.Contains("in the middle of a message", fixture.Log.Text, StringComparison.Ordinal);
        Assert.Equal(before - 1, Kernel.Descriptors);
    }

    [Fact]
    public async Task Kick_whose_close_waits_holds_neither_the_device_nor_its_next_user()
    {
        var fixture = new VhostUserFixture();
        using var lingering = new Lingering();
        using (var front = new FrontEnd(fixture.Socket))
        {
            // In two pieces, so that the server holds it still when it is closed here.
            var message = Message(SET_VRING_KICK, Number(0));
            front.SendRaw(message.AsSpan(0, 1), lingering.Descriptor);
            lingering.Forget();
            front.SendRaw(message.AsSpan(1));
            front.ExpectClosed();
        }

        using (var waiting = new Lingering())
        {
            using var next = new FrontEnd(fixture.Socket);
            next.Connect();
            next.ReadSector(3);
            // Another waits behind it with descriptors that nobody receives.
            using var behind = new FrontEnd(fixture.Socket);
            behind.SendRaw([1], waiting.Descriptor);
            waiting.Forget();
            await fixture.Server.StopAsync().WaitAsync(_soon, TestContext.Current.CancellationToken);
            Assert.Equal(2, PeerDescriptors.TotalClosing);
        }

        fixture.Dispose();
    }

    [Fact]
    public async Task Flags_of_a_peers_eventfd_stay_and_its_reader_wakes()
    {
        using var peers = new FileDescriptor(Libc.eventfd(0, Libc.EFD_CLOEXEC));
        Assert.True(EventFd.TryAdopt(peers.Duplicate(), out var ours, out _));
        using (ours)
        {
            Assert.Equal(0, Libc.fcntl(peers, Libc.F_GETFL, 0) & Libc.O_NONBLOCK);
            Assert.False(ours!.TryRead(out _));
            var reader = Task.Factory.StartNew(() => Read(peers), TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default);
            ours.Signal();
            Assert.Equal(1u, await reader.WaitAsync(_soon, TestContext.Current.CancellationToken));
            ours.SignalByWrite();
            Assert.Equal(1u, Read(peers));
        }
    }

    // The soft limit alone, which may be raised again.
    private static void SetLimit(int limit)
    {
        const int OpenFiles = 7;
        var limits = new ulong[2];
        Assert.Equal(0, GetLimits(OpenFiles, limits));
        limits[0] = (ulong)limit;
        Assert.Equal(0, SetLimits(OpenFiles, limits));
    }

    [DllImport("libc", EntryPoint = "getrlimit")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int GetLimits(int resource, [Out] ulong[] limits);

    [DllImport("libc", EntryPoint = "setrlimit")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int SetLimits(int resource, ulong[] limits);

    private static ulong Read(FileDescriptor eventFd)
    {
        using var handle = new SafeFileHandle(eventFd.Number, ownsHandle: false);
        var value = new byte[sizeof(ulong)];
        return RandomAccess.Read(handle, value, 0) == value.Length ? BitConverter.ToUInt64(value) : ulong.MaxValue;
    }

    private static FileDescriptor Pass(UnixStream from, UnixStream to, FileDescriptor descriptor)
    {
        List<FileDescriptor> received = [];
        Assert.Equal(1, from.Send("x"u8, [descriptor], out _));
        Assert.Equal(1, to.Receive(new byte[1], received, out _));
        return Assert.Single(received);
    }
}
