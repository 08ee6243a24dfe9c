using System.Numerics;
using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

/// <summary>
/// What was received and is not taken yet: a stream of bytes cut into messages, and the descriptors that came with it. It takes as many
/// messages out of one receive as the buffer holds.
/// </summary>
/// <remarks>
/// Whose a descriptor is: it rides on the first byte of what was sent in one call with it, and Linux ends a receive after the piece that
/// carried descriptors. So, when each message is sent in a call of its own, the descriptors that come with a receive belong to the last
/// message that starts in it. Where that message can have none but another of the same receive can, the peer does it otherwise: that one
/// gets them, and from there on each header is received on its own.
/// No lock: the channel sees to it that a receive only touches the bytes from <see cref="Prepare"/>, and the rest happens under its gate.
/// </remarks>
internal sealed class VfioUserInbox(bool headerByHeader) : IDisposable
{
    private const int InitialSize = 64 << 10;

    /// <summary>
    /// The most that waits to be taken, beyond one message: a peer that sends on while its requests are not answered gets no more memory.
    /// </summary>
    private const int MaxBacklog = 4 << 20;

    /// <summary>The most descriptors that wait, with messages that are not taken yet.</summary>
    private const int MaxWaitingDescriptors = 1024;

    private readonly List<(long At, List<FileDescriptor> Items)> _carried = [];
    private byte[] _buffer = Allocate(InitialSize);
    private int _start;
    private int _scan;
    private int _end;
    private long _origin;
    private int _waitingDescriptors;
    private bool _held;
    private List<FileDescriptor>? _taken;

    /// <summary>Whether each header is received on its own.</summary>
    internal bool IsHeaderByHeader { get; private set; } = headerByHeader;

    /// <summary>Whether descriptors were found at a message that cannot have any.</summary>
    internal bool SawMisplaced { get; private set; }

    /// <summary>Whether nothing waits to be looked at.</summary>
    internal bool IsEmpty => _scan == _end;

    /// <summary>Whether the last message is not all there.</summary>
    internal bool HasPart => _end > _scan;

    /// <summary>Whether <see cref="TryTake"/> has something to say: a whole message, or that what comes is none.</summary>
    internal bool HasMessage => TryMessage(_start, out _, out var fault) || fault != Fault.None;

    /// <summary>Where the next receive goes.</summary>
    /// <param name="buffer">The buffer, of which the bytes from <paramref name="offset"/> on are free.</param>
    /// <param name="offset">First free byte.</param>
    /// <param name="length">How many bytes may be received.</param>
    /// <returns>False when more waits than the peer may leave waiting.</returns>
    internal bool Prepare(out byte[] buffer, out int offset, out int length)
    {
        // What is to come next is known to the byte once its header is there.
        var have = _end - _scan;
        var need = VfioUserProtocol.HeaderSize;
        if (have >= need)
            need = (int)SizeAt(_scan);
        var waiting = _end - _start;
        if (waiting == 0 && !_held)
        {
            _origin += _start;
            _start = _scan = _end = 0;
        }
        else if (_buffer.Length - _end < need - have)
        {
            var room = waiting + (need - have);
            if (_held || room > _buffer.Length)
            {
                // Somebody looks at a message in the old buffer still: it stays as it is.
                var larger = Allocate(Math.Max(InitialSize, (int)BitOperations.RoundUpToPowerOf2((uint)room)));
                _buffer.AsSpan(_start, waiting).CopyTo(larger);
                _buffer = larger;
            }
            else
            {
                _buffer.AsSpan(_start, waiting).CopyTo(_buffer);
            }

            _origin += _start;
            _end -= _start;
            _scan -= _start;
            _start = 0;
        }

        buffer = _buffer;
        offset = _end;
        length = IsHeaderByHeader ? need - have : _buffer.Length - _end;
        return waiting <= MaxBacklog + VfioUserProtocol.MaxMessage;
    }

    /// <summary>Adds what was received at the place that <see cref="Prepare"/> named.</summary>
    /// <param name="count">Bytes.</param>
    /// <param name="descriptors">The descriptors that came; they belong to the inbox from here on, and the list is empty afterwards.</param>
    /// <param name="fault">
    /// EBADMSG: descriptors came where no message starts; EMSGSIZE: more than one message may carry; ENOBUFS: too many wait with messages that are
    /// not taken.
    /// </param>
    internal bool TryCommit(int count, List<FileDescriptor> descriptors, out Fault fault)
    {
        var from = _end;
        _end += count;
        fault = Fault.None;
        return descriptors.Count == 0 || TryAttribute(from, descriptors, out fault);
    }

    /// <summary>Takes the next message, if all of it is there. The one taken before is let go of.</summary>
    /// <param name="message">The message.</param>
    /// <param name="wasScanned">Whether <see cref="TryScan"/> has shown it already.</param>
    /// <param name="fault">EBADMSG, EMSGSIZE: what comes is no message, and where the next begins is not known.</param>
    internal bool TryTake(out VfioUserMessage message, out bool wasScanned, out Fault fault)
    {
        Release();
        wasScanned = _start < _scan;
        if (!TryMessage(_start, out var size, out fault))
        {
            message = default;
            return false;
        }

        if (_carried.Count > 0 && _carried[0].At == _origin + _start)
        {
            _taken = _carried[0].Items;
            _waitingDescriptors -= _taken.Count;
            _carried.RemoveAt(0);
        }

        message = new VfioUserMessage(_buffer.AsSpan(_start, size), _taken);
        if (_taken is not null && !VfioUserProtocol.MayCarryDescriptors(message.Command, message.IsReply))
        {
            SawMisplaced = true;
            IsHeaderByHeader = true;
        }

        _held = true;
        _start += size;
        _scan = Math.Max(_scan, _start);
        return true;
    }

    /// <summary>Looks at the next message that was not looked at yet, without taking it.</summary>
    /// <param name="message">The message; without its descriptors.</param>
    /// <param name="fault">As for <see cref="TryTake"/>.</param>
    internal bool TryScan(out VfioUserMessage message, out Fault fault)
    {
        if (!TryMessage(_scan, out var size, out fault))
        {
            message = default;
            return false;
        }

        message = new VfioUserMessage(_buffer.AsSpan(_scan, size), null);
        _scan += size;
        return true;
    }

    /// <summary>Lets go of the message taken last: its descriptors that nobody took are closed.</summary>
    internal void Release()
    {
        _held = false;
        if (_taken is null)
            return;
        CloseAll(_taken);
        _taken = null;
    }

    public void Dispose()
    {
        Release();
        foreach (var (_, items) in _carried)
            CloseAll(items);
        _carried.Clear();
    }

    internal static void CloseAll(List<FileDescriptor> descriptors)
    {
        foreach (var descriptor in descriptors)
            descriptor.Dispose();
        descriptors.Clear();
    }

    // Pinned from the start: a receive may wait in the kernel for long, and must not keep the collector from moving what lies around it.
    private static byte[] Allocate(int size) => GC.AllocateUninitializedArray<byte>(size, pinned: true);

    private uint SizeAt(int at) => MemoryMarshal.Read<VfioUserHeader>(_buffer.AsSpan(at)).Size;

    private bool TryMessage(int at, out int size, out Fault fault)
    {
        size = 0;
        fault = Fault.None;
        var have = _end - at;
        if (have < VfioUserProtocol.HeaderSize)
            return false;
        var wanted = SizeAt(at);
        if (wanted < VfioUserProtocol.HeaderSize)
            return VfioUserProtocol.Refuse(Errno.EBADMSG, "the message is shorter than its header", out fault);
        if (wanted > VfioUserProtocol.MaxMessage)
            return VfioUserProtocol.Refuse(Errno.EMSGSIZE, "the message is larger than one may be", out fault);
        size = (int)wanted;
        return have >= size;
    }

    private bool TryAttribute(int from, List<FileDescriptor> descriptors, out Fault fault)
    {
        int last = -1, able = -1, ables = 0;
        var lastIsAble = false;
        for (var at = _scan; at < _end;)
        {
            var whole = _end - at >= VfioUserProtocol.HeaderSize;
            if (at >= from)
            {
                last = at;
                // Of a header that is not all there it is not known yet.
                lastIsAble = !whole || IsAble(at);
                if (whole && Uses(at))
                {
                    able = at;
                    ables++;
                }
            }

            if (!whole || SizeAt(at) is var size && size is < VfioUserProtocol.HeaderSize or > VfioUserProtocol.MaxMessage)
                break;
            at += (int)SizeAt(at);
        }

        var items = new List<FileDescriptor>(descriptors);
        descriptors.Clear();
        if (last < 0)
        {
            CloseAll(items);
            return VfioUserProtocol.Refuse(Errno.EBADMSG, "descriptors came in the middle of a message", out fault);
        }

        if (_waitingDescriptors + items.Count > MaxWaitingDescriptors)
        {
            CloseAll(items);
            return VfioUserProtocol.Refuse(Errno.ENOBUFS, "too many descriptors were sent without waiting for answers", out fault);
        }

        if (!lastIsAble && ables == 1)
        {
            last = able;
            IsHeaderByHeader = true;
        }

        fault = Fault.None;
        _waitingDescriptors += items.Count;
        var place = _origin + last;
        // One receive may bring those of a message, and the next one more of them when its header came in pieces.
        if (_carried.Count == 0 || _carried[^1].At != place)
        {
            _carried.Add((place, items));
            return true;
        }

        _carried[^1].Items.AddRange(items);
        return _carried[^1].Items.Count <= UnixStream.MaxDescriptors ||
            VfioUserProtocol.Refuse(Errno.EMSGSIZE, "more descriptors came than a message may carry", out fault);
    }

    private bool IsAble(int at)
    {
        var message = new VfioUserMessage(_buffer.AsSpan(at, VfioUserProtocol.HeaderSize), null);
        return VfioUserProtocol.MayCarryDescriptors(message.Command, message.IsReply);
    }

    private bool Uses(int at)
    {
        var message = new VfioUserMessage(_buffer.AsSpan(at, VfioUserProtocol.HeaderSize), null);
        return VfioUserProtocol.UsesDescriptors(message.Command, message.IsReply);
    }
}
