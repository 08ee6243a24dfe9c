using System.Runtime.InteropServices;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>
/// Register accesses that go to the server in one piece and whose answers come back together. Put together once, it can be run again and
/// again; running it allocates nothing. One thread at a time.
/// </summary>
public sealed class VfioUserBatch : IVfioUserRun
{
    /// <summary>The most accesses in one batch.</summary>
    public const int MaxAccesses = 512;

    // All of it fits into the socket's buffer, so that the sending ends before the server's answers have to be read.
    private const int MaxRequestBytes = 64 << 10;
    private const int Head = HeaderSize + RegionAccessSize;

    private readonly VfioUserChannel _channel;
    private readonly VfioUserCall _call = new();
    private readonly int _maxTransfer;
    private readonly List<Access> _accesses = [];
    private byte[] _requests = GC.AllocateUninitializedArray<byte>(4096, pinned: true);
    private byte[] _data = new byte[256];
    private Errno[] _errors = [];
    private int _requestBytes;
    private int _dataBytes;

    internal VfioUserBatch(VfioUserChannel channel, int maxTransfer)
    {
        _channel = channel;
        _maxTransfer = maxTransfer;
    }

    /// <summary>How many accesses it has.</summary>
    public int Count => _accesses.Count;

    /// <summary>Takes all accesses out.</summary>
    public void Clear()
    {
        _accesses.Clear();
        _requestBytes = _dataBytes = 0;
    }

    /// <summary>Adds a read.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="size">Bytes, at most what the server takes in one message.</param>
    /// <returns>Its index in the batch.</returns>
    /// <exception cref="InvalidOperationException">The batch is full.</exception>
    public int AddRead(uint region, ulong offset, int size)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)size, (uint)_maxTransfer, nameof(size));
        var at = Add(VfioUserCommand.REGION_READ, region, offset, size, 0);
        if (_data.Length < _dataBytes + size)
            Array.Resize(ref _data, Math.Max(_data.Length * 2, _dataBytes + size));
        _dataBytes += size;
        return at;
    }

    /// <summary>Adds a write.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="source">What is written.</param>
    /// <returns>Its index in the batch.</returns>
    /// <exception cref="InvalidOperationException">The batch is full.</exception>
    public int AddWrite(uint region, ulong offset, ReadOnlySpan<byte> source)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(source.Length, _maxTransfer, nameof(source));
        var at = Add(VfioUserCommand.REGION_WRITE, region, offset, source.Length, source.Length);
        source.CopyTo(_requests.AsSpan(_requestBytes - source.Length));
        return at;
    }

    /// <summary>Sends all accesses and waits for all answers. The server does them in their order.</summary>
    /// <param name="fault">What was wrong with the first that failed (<see cref="ErrorOf"/> tells them apart); ETIMEDOUT; ECONNRESET.</param>
    /// <returns>Whether all went well.</returns>
    public bool TryRun(out Fault fault)
    {
        fault = Fault.None;
        if (_accesses.Count == 0)
            return true;
        if (_errors.Length < _accesses.Count)
            _errors = new Errno[Math.Max(16, _accesses.Count * 2)];
        Array.Clear(_errors);
        _call.Batch = this;
        if (!_channel.TryBegin(_call, VfioUserCommand.REGION_READ, _accesses.Count, out fault))
            return false;
        for (var i = 0; i < _accesses.Count; i++)
            VfioUserMessage.WriteId(_requests.AsSpan(_accesses[i].At), (ushort)(_call.FirstId + i));
        // A send that fails closes the channel, which the wait notices.
        _channel.TrySend(_requests.AsSpan(0, _requestBytes), default);
        return _channel.TryWait(_call, out fault);
    }

    /// <summary>What a read gave.</summary>
    /// <param name="index">Its index; the span is valid until the batch is changed or run again.</param>
    public ReadOnlySpan<byte> DataOf(int index) => _accesses[index].Command == VfioUserCommand.REGION_READ
        ? _data.AsSpan(_accesses[index].DataAt, _accesses[index].Size)
        : default;

    /// <summary>How an access went at the last run.</summary>
    /// <param name="index">Its index.</param>
    /// <returns>None when it went well.</returns>
    public Errno ErrorOf(int index) => _errors[index];

    VfioUserCommand IVfioUserRun.CommandOf(int index) => _accesses[index].Command;

    void IVfioUserRun.Fail(int index, Errno error) => _errors[index] = error;

    bool IVfioUserRun.TryStore(int index, ReadOnlySpan<byte> payload)
    {
        var access = _accesses[index];
        if (access.Command != VfioUserCommand.REGION_READ)
            return true;
        if (payload.Length < RegionAccessSize + access.Size)
        {
            _errors[index] = Errno.EPROTO;
            return false;
        }

        payload.Slice(RegionAccessSize, access.Size).CopyTo(_data.AsSpan(access.DataAt));
        return true;
    }

    private int Add(VfioUserCommand command, uint region, ulong offset, int count, int extra)
    {
        var size = Head + extra;
        if (_accesses.Count == MaxAccesses || _requestBytes + size > MaxRequestBytes)
            throw new InvalidOperationException("The batch is full: run it first.");
        if (_requests.Length < _requestBytes + size)
        {
            var larger = GC.AllocateUninitializedArray<byte>(Math.Max(_requests.Length * 2, _requestBytes + size), pinned: true);
            _requests.AsSpan(0, _requestBytes).CopyTo(larger);
            _requests = larger;
        }

        var request = _requests.AsSpan(_requestBytes, size);
        VfioUserMessage.WriteHeader(request, 0, command, size, TypeCommand);
        WriteAccess(request[HeaderSize..], region, offset, count);
        _accesses.Add(new Access(command, _requestBytes, count, _dataBytes));
        _requestBytes += size;
        return _accesses.Count - 1;
    }

    internal static void WriteAccess(Span<byte> payload, uint region, ulong offset, int count) =>
        MemoryMarshal.Write(payload, new VfioUserRegionAccess { Offset = offset, Region = region, Count = (uint)count });

    private readonly record struct Access(VfioUserCommand Command, int At, int Size, int DataAt);
}
