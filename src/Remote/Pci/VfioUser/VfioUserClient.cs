using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>
/// A device that a vfio-user server offers, as a driver in user space has it: registers, memory for its DMA, interrupts by eventfds, reset,
/// features, migration. It speaks with any server; what the server answers wrong is a fault, as is what it refuses.
/// </summary>
/// <remarks>
/// Safe from any thread. A call waits for the server's answer on the caller's own thread; calls of several threads are under way at once.
/// One thread of the client watches over the connection and serves the server's requests for memory.
/// </remarks>
public sealed partial class VfioUserClient : IDisposable
{
    private readonly VfioUserClientOptions _options;
    private readonly VfioUserChannel _channel;
    private readonly IoAddressSpace _space = new();
    private readonly IoAccess _access;
    private readonly Lock _lock = new();
    private readonly SortedList<ulong, ulong> _maps = [];
    private readonly Dictionary<uint, VfioRegionInfo> _regions = [];
    private readonly Dictionary<uint, IReadOnlyList<VfioUserDoorbell>> _doorbells = [];
    private readonly VfioUserWatch _watch;
    private VfioUserChannel? _twin;
    private VfioUserCapabilities _server = new();
    private int _maxTransfer;
    private volatile bool _disposed;

    private VfioUserClient(UnixStream stream, VfioUserClientOptions options)
    {
        _options = options;
        _access = _space.OpenAccess("vfio-user server", unmapping: null);
        var memory = NewMemoryServer();
        _channel = new VfioUserChannel(stream, headerByHeader: false, options.Timeout, memory.TryHandle);
        memory.Channel = _channel;
        _watch = new VfioUserWatch(_channel, options.Timeout, options.Lost);
    }

    /// <summary>What the device is.</summary>
    public VfioDeviceInfo Info { get; private set; }

    /// <summary>Whether the connection is still there, as far as is known.</summary>
    public bool IsConnected => !_channel.IsClosed;

    /// <summary>The most bytes that one access may have; larger ones are cut.</summary>
    public int MaxDataTransfer => _maxTransfer;

    /// <summary>Whether several writes can go in one message.</summary>
    public bool CanWriteMultiple => _server.WriteMultiple;

    /// <summary>Whether the server has a socket of its own for its requests.</summary>
    public bool HasTwinSocket => _twin is not null;

    /// <summary>Connects to a server and settles version and limits.</summary>
    /// <param name="path">Path of the server's socket.</param>
    /// <param name="options">What the server is told; the usual when left out.</param>
    /// <param name="cancellationToken">Ends the wait for the server.</param>
    /// <returns>The client.</returns>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    /// <exception cref="VirtbusException">
    /// ENOENT, ECONNREFUSED: nobody listens there; ETIMEDOUT: another client has the device, in most cases; EBUSY and the like: the server
    /// turned it away; EPROTO, EMSGSIZE, ECONNRESET: it speaks no vfio-user.
    /// </exception>
    public static VfioUserClient Connect(string path, VfioUserClientOptions? options = null, CancellationToken cancellationToken = default)
    {
        options ??= new VfioUserClientOptions();
        ArgumentOutOfRangeException.ThrowIfNotEqual(options.MaxDescriptors is >= 1 and <= UnixStream.MaxDescriptors, true, nameof(options));
        ArgumentOutOfRangeException.ThrowIfNotEqual(options.MaxDataTransfer is >= 1 and <= VfioUserProtocol.MaxDataTransfer, true, nameof(options));
        var stream = UnixStream.TryConnect(path, out var error) ?? throw new VirtbusException(error,
            $"Nobody can be reached at vfio-user socket '{path}': {error}. " +
            (error == Errno.ENAMETOOLONG ? "Use a shorter path, of at most 107 bytes." : "Check that its server runs and that you may write to the socket."));
        var client = new VfioUserClient(stream, options);
        try
        {
            client._watch.Start();
        }
        catch
        {
            client.Dispose();
            throw;
        }

        using var cancelled = client.CloseWhen(cancellationToken);
        if (client.TryGreet(out var fault) && client.TryGetInfo(out fault))
            return client;
        client.Dispose();
        cancellationToken.ThrowIfCancellationRequested();
        // Servers let a second client wait, which it can't tell from one that says nothing.
        throw new VirtbusException(fault.Errno, fault.Errno == Errno.ETIMEDOUT
            ? $"The server of '{path}' did not answer in {options.Timeout.TotalSeconds} s: another client may have the device, which is open for one at a time. End that one, or look into the server's log."
            : $"The server of '{path}' does not let this client in: {fault.Errno}, {fault.Message}. Check that it is a vfio-user socket, and look into the server's log.");
    }

    /// <summary>Ends the connection: the server closes the device.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_disposed)
                return;
            _disposed = true;
        }

        Close(new Fault(Errno.ECONNRESET, "the client was disposed"));
        _watch.Stop();
        _channel.Dispose();
        _twin?.Dispose();
        _watch.Dispose();
        _access.Dispose();
        _space.Dispose();
        foreach (var region in _regions.Values)
        {
            foreach (var area in region.Areas)
                area.File.Dispose();
        }

        foreach (var doorbell in _doorbells.Values.SelectMany(list => list))
            doorbell.Signal.Dispose();
    }

    /// <summary>Ends the connection, and with it every wait for the server, when a token says so, until the answer is disposed.</summary>
    internal CancellationTokenRegistration CloseWhen(CancellationToken token) =>
        token.UnsafeRegister(static c => ((VfioUserClient)c!).Close(new Fault(Errno.ECANCELED, "it was cancelled")), this);

    /// <summary>Ends the connection as if the server had gone. Safe from any thread.</summary>
    internal void Close(Fault reason)
    {
        _channel.Close(reason);
        _twin?.Close(reason);
    }

    // Registers.

    /// <summary>Reads a region; more than one message carries is read in pieces.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">What the server answered; ETIMEDOUT; ECONNRESET.</param>
    public bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault)
    {
        do
        {
            var count = Math.Min(destination.Length, _maxTransfer);
            var call = _channel.Rent();
            var request = call.Request(HeaderSize + RegionAccessSize);
            VfioUserBatch.WriteAccess(request[HeaderSize..], region, offset, count);
            var done = TryCall(call, VfioUserCommand.REGION_READ, request, default, out fault) &&
                (call.Reply.Length == RegionAccessSize + count || Refuse(Errno.EPROTO, "the answer has another size than what was asked for", out fault));
            if (done)
                call.Reply[RegionAccessSize..].CopyTo(destination);
            _channel.Return(call);
            if (!done)
                return false;
            destination = destination[count..];
            offset += (ulong)count;
        }
        while (!destination.IsEmpty);
        return true;
    }

    /// <summary>Writes a region and waits until the server did it; more than one message carries is written in pieces.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from.</param>
    /// <param name="fault">As for <see cref="TryRead"/>.</param>
    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        do
        {
            var count = Math.Min(source.Length, _maxTransfer);
            var call = _channel.Rent();
            var request = call.Request(HeaderSize + RegionAccessSize + count);
            VfioUserBatch.WriteAccess(request[HeaderSize..], region, offset, count);
            source[..count].CopyTo(request[(HeaderSize + RegionAccessSize)..]);
            var done = TryCall(call, VfioUserCommand.REGION_WRITE, request, default, out fault);
            _channel.Return(call);
            if (!done)
                return false;
            source = source[count..];
            offset += (ulong)count;
        }
        while (!source.IsEmpty);
        return true;
    }

    /// <summary>Writes a region without waiting: an error of the device is not told. A later read comes behind it.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from; at most <see cref="MaxDataTransfer"/>.</param>
    /// <param name="fault">ECONNRESET.</param>
    public bool TryPost(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        const int Head = HeaderSize + RegionAccessSize;
        ArgumentOutOfRangeException.ThrowIfGreaterThan(source.Length, _maxTransfer, nameof(source));
        var size = Head + source.Length;
        var message = size <= 64 ? stackalloc byte[64] : new byte[size];
        VfioUserMessage.WriteHeader(message, 0, VfioUserCommand.REGION_WRITE, size, TypeCommand | NoReplyFlag);
        VfioUserBatch.WriteAccess(message[HeaderSize..], region, offset, source.Length);
        source.CopyTo(message[Head..]);
        fault = _channel.TrySend(message[..size], default) ? Fault.None : _channel.End;
        return fault == Fault.None;
    }

    /// <summary>Writes several registers in one message, in their order.</summary>
    /// <param name="writes">What is written.</param>
    /// <param name="post">Whether to go on without waiting; errors are not told then.</param>
    /// <param name="fault">EOPNOTSUPP: the server cannot (<see cref="CanWriteMultiple"/>); E2BIG: too many for a message; else as for <see cref="TryWrite"/>.</param>
    public bool TryWriteMultiple(ReadOnlySpan<VfioUserWrite> writes, bool post, out Fault fault)
    {
        if (!_server.WriteMultiple)
            return Refuse(Errno.EOPNOTSUPP, "the server takes no message with several writes", out fault);
        var size = WriteMultiSize + (writes.Length * WriteEntrySize);
        if (size > _maxTransfer)
            return Refuse(Errno.E2BIG, "the writes do not fit into a message", out fault);
        var call = _channel.Rent();
        var request = call.Request(HeaderSize + size);
        MemoryMarshal.Write(request[HeaderSize..], new VfioUserWriteMulti { Count = (ulong)writes.Length });
        var at = HeaderSize + WriteMultiSize;
        foreach (var write in writes)
        {
            VfioUserBatch.WriteAccess(request[at..], write.Region, write.Offset, write.Size);
            MemoryMarshal.Write(request[(at + WriteMultiDataAt)..], write.Value);
            at += WriteEntrySize;
        }

        bool done;
        if (post)
        {
            VfioUserMessage.WriteHeader(request, 0, VfioUserCommand.REGION_WRITE_MULTI, request.Length, TypeCommand | NoReplyFlag);
            done = _channel.TrySend(request, default);
            fault = done ? Fault.None : _channel.End;
        }
        else
        {
            done = TryCall(call, VfioUserCommand.REGION_WRITE_MULTI, request, default, out fault);
        }

        _channel.Return(call);
        return done;
    }

    /// <summary>A batch of accesses that go to the server together.</summary>
    public VfioUserBatch CreateBatch() => new(_channel, _maxTransfer);

    // What the device does.

    /// <summary>Sets interrupts up, in as many messages as the server's limit of descriptors asks for.</summary>
    /// <param name="set">What is asked; with eventfds that are null the vectors of those are taken away.</param>
    /// <param name="fault">EINVAL: flags, range, not possible for that index; else as for <see cref="TryRead"/>.</param>
    public bool TrySetIrqs(in VfioIrqSet set, out Fault fault)
    {
        if (!set.Flags.HasFlag(VfioIrqSetFlags.DataEventFd) || set.EventFds.IsEmpty)
            return TrySetIrqs(set.Flags, set.Index, set.Start, set.Count, set.Flags.HasFlag(VfioIrqSetFlags.DataBool) ? set.Bools : default, default, out fault);
        if ((uint)set.EventFds.Length != set.Count)
            return Refuse(Errno.EINVAL, "the number of eventfds is not that of the interrupts", out fault);
        var most = Math.Max(1, Math.Min(_server.MaxDescriptors, UnixStream.MaxDescriptors));
        for (var at = 0; at < set.EventFds.Length;)
        {
            var bound = set.EventFds[at] is not null;
            var end = at + 1;
            while (end < set.EventFds.Length && set.EventFds[end] is not null == bound && (!bound || end - at < most))
                end++;
            if (!TrySetIrqs(set.Flags, set.Index, set.Start + (uint)at, (uint)(end - at), default, bound ? set.EventFds[at..end] : default, out fault))
                return false;
            at = end;
        }

        fault = Fault.None;
        return true;
    }

    /// <summary>Resets the device.</summary>
    /// <param name="fault">EOPNOTSUPP: it cannot be reset; else as for <see cref="TryRead"/>.</param>
    public bool TryReset(out Fault fault) => TryAsk(VfioUserCommand.DEVICE_RESET, default, out fault);

    private VfioUserMemoryServer NewMemoryServer() => new(_options.ServeMemory ? _access : null, _options.MaxDataTransfer);

    private bool TrySetIrqs(
        VfioIrqSetFlags flags, uint index, uint start, uint count, ReadOnlySpan<byte> bools, ReadOnlySpan<EventFd?> signals, out Fault fault)
    {
        var call = _channel.Rent();
        var request = call.Request(HeaderSize + IrqSetSize + bools.Length);
        var payload = request[HeaderSize..];
        MemoryMarshal.Write(payload, new VfioUserIrqSet
        {
            ArgSize = (uint)payload.Length,
            Flags = (uint)flags,
            Index = index,
            Start = start,
            Count = count,
        });
        bools.CopyTo(payload[IrqSetSize..]);
        var descriptors = new FileDescriptor[signals.Length];
        for (var i = 0; i < signals.Length; i++)
            descriptors[i] = signals[i]!.Descriptor;
        var done = TryCall(call, VfioUserCommand.DEVICE_SET_IRQS, request, descriptors, out fault);
        _channel.Return(call);
        return done;
    }

    private bool TryGreet(out Fault fault)
    {
        var text = new VfioUserCapabilities
        {
            MaxDescriptors = _options.MaxDescriptors,
            MaxDataTransfer = (ulong)_options.MaxDataTransfer,
            WriteMultiple = true,
            Migration = true,
            TwinSocket = _options.TwinSocket && _options.ServeMemory,
        }.ToText();
        var call = _channel.Rent();
        try
        {
            var request = call.Request(HeaderSize + VersionSize + text.Length);
            MemoryMarshal.Write(request[HeaderSize..], new VfioUserVersion { Major = Major, Minor = Minor });
            text.CopyTo(request[(HeaderSize + VersionSize)..]);
            if (!TryCall(call, VfioUserCommand.VERSION, request, default, out fault))
                return false;
            if (call.Reply.Length < VersionSize || call.Read<VfioUserVersion>() is not { Major: Major, Minor: <= Minor })
                return Refuse(Errno.EPROTO, "the server speaks another version", out fault);
            if (!VfioUserCapabilities.TryParse(call.Reply[VersionSize..], out _server, out fault))
                return false;
            _maxTransfer = (int)Math.Min(_server.MaxDataTransfer, (ulong)VfioUserProtocol.MaxDataTransfer);
            if (!_server.TwinSocket)
                return true;
            if ((uint)_server.TwinIndex >= (uint)call.Descriptors.Count)
                return Refuse(Errno.EPROTO, "the server names a socket that did not come", out fault);
            var descriptor = call.Descriptors[_server.TwinIndex];
            call.Descriptors.RemoveAt(_server.TwinIndex);
            var memory = NewMemoryServer();
            var twin = new VfioUserChannel(UnixStream.Adopt(descriptor), headerByHeader: false, _options.Timeout, memory.TryHandle);
            memory.Channel = twin;
            Volatile.Write(ref _twin, twin);
            _watch.AddTwin(twin);
            return true;
        }
        finally
        {
            _channel.Return(call);
        }
    }

    private bool TryGetInfo(out Fault fault)
    {
        Span<byte> request = stackalloc byte[DeviceInfoSize];
        MemoryMarshal.Write(request, new VfioUserDeviceInfo { ArgSize = DeviceInfoSize });
        if (!TryAsk(VfioUserCommand.DEVICE_GET_INFO, request, out VfioUserDeviceInfo info, out fault))
            return false;
        if (info.Regions > ushort.MaxValue || info.Interrupts > ushort.MaxValue)
            return Refuse(Errno.EPROTO, "the server's device has more regions or interrupts than can be", out fault);
        Info = new VfioDeviceInfo((info.Flags & DeviceResetFlag) != 0, (info.Flags & DevicePciFlag) != 0, (int)info.Regions, (int)info.Interrupts);
        // With the twin socket the server asks there; without, its requests come between its answers, and somebody has to look for them.
        _watch.AddSocket(hasRequests: _twin is null && _options.ServeMemory);
        return true;
    }

    /// <summary>Asks for something whose answer begins with a struct.</summary>
    private bool TryAsk<T>(VfioUserCommand command, ReadOnlySpan<byte> payload, out T answer, out Fault fault)
        where T : unmanaged
    {
        answer = default;
        var call = _channel.Rent();
        var request = call.Request(HeaderSize + payload.Length);
        payload.CopyTo(request[HeaderSize..]);
        var done = TryCall(call, command, request, default, out fault) &&
            (MemoryMarshal.TryRead(call.Reply, out answer) || Refuse(Errno.EPROTO, "the answer is shorter than what was asked for", out fault));
        _channel.Return(call);
        return done;
    }

    /// <summary>Asks for something whose answer says no more than that it is done.</summary>
    private bool TryAsk(VfioUserCommand command, ReadOnlySpan<byte> payload, out Fault fault)
    {
        var call = _channel.Rent();
        var request = call.Request(HeaderSize + payload.Length);
        payload.CopyTo(request[HeaderSize..]);
        var done = TryCall(call, command, request, default, out fault);
        _channel.Return(call);
        return done;
    }

    /// <summary>Sends a request, whose header is filled in here, and waits for the answer.</summary>
    private bool TryCall(VfioUserCall call, VfioUserCommand command, Span<byte> request, ReadOnlySpan<FileDescriptor> descriptors, out Fault fault)
    {
        if (!_channel.TryBegin(call, command, 1, out fault))
            return false;
        VfioUserMessage.WriteHeader(request, call.FirstId, command, request.Length, TypeCommand);
        // A send that fails closes the channel, which the wait notices.
        _channel.TrySend(request, descriptors);
        return _channel.TryWait(call, out fault);
    }
}
