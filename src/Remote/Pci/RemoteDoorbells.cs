using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci;

/// <summary>
/// The registers of a function for which eventfds of its server stand: a write of one is a signal, and no message that is waited for. Nothing changes after all
/// were added.
/// </summary>
internal sealed class RemoteDoorbells
{
    private readonly List<PciDoorbell> _all = [];
    private readonly List<EventFd> _signals = [];
    // Of a register the first entry; several stand for one that have different values.
    private readonly Dictionary<(int Bar, ulong Offset), int> _first = [];
    private readonly List<int> _next = [];
    // A write may come while the function ends.
    private readonly UseGate _gate = new();

    internal IReadOnlyList<PciDoorbell> All => _all;

    /// <summary>Adds one.</summary>
    /// <param name="bar">Whose register it is.</param>
    /// <param name="register">The register.</param>
    /// <param name="signal">The server's eventfd, which stays the link's.</param>
    internal void Add(int bar, in VfioDoorbell register, EventFd signal)
    {
        ref var first = ref CollectionsMarshal.GetValueRefOrAddDefault(_first, (bar, register.Offset), out var isThere);
        _next.Add(isThere ? first : -1);
        first = _all.Count;
        _all.Add(new PciDoorbell(bar, register.Offset, register.Size, register.Match));
        _signals.Add(signal);
    }

    /// <summary>The eventfd of a doorbell; null for one that is not there.</summary>
    internal EventFd? Find(in PciDoorbell doorbell, out int index) => (index = _all.IndexOf(doorbell)) < 0 ? null : _signals[index];

    /// <summary>Signals what stands for a write.</summary>
    /// <param name="bar">Which BAR is written.</param>
    /// <param name="offset">Where.</param>
    /// <param name="source">What.</param>
    /// <returns>False when nothing stands for it: the write has to be made.</returns>
    internal bool TrySignal(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (!_first.TryGetValue((bar, offset), out var at))
            return false;
        while (at >= 0 && !StandsFor(_all[at], source))
            at = _next[at];
        if (at < 0 || !_gate.TryEnter())
            return false;
        _signals[at].Signal();
        _gate.Leave();
        return true;
    }

    /// <summary>Signals nothing more, and waits until nobody does: the eventfds end.</summary>
    internal void Close() => _gate.Close();

    private static bool StandsFor(in PciDoorbell doorbell, ReadOnlySpan<byte> source) =>
        doorbell.Size == source.Length && (doorbell.Match is not { } match || match == ValueOf(source));

    private static ulong ValueOf(ReadOnlySpan<byte> source)
    {
        Span<byte> bytes = stackalloc byte[8];
        bytes.Clear();
        source.CopyTo(bytes);
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }
}
