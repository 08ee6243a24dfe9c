using Microsoft.Extensions.Logging;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci;

/// <summary>
/// Lets a function reach what its slot reaches. What the other end asks for by messages goes through the function's port, where permissions and
/// faults are those of any other DMA. Safe from any thread.
/// </summary>
internal sealed class RemoteMemory(IRemoteLink link, DmaPort port, ILogger log) : IRemoteMemory
{
    // More is looked up piece by piece.
    private const ulong LongestLook = 1UL << 30;

    private readonly Lock _lock = new();
    private readonly Dictionary<IovaRange, RemoteMap> _shown = [];
    private IoMap? _held;
    private bool _ended;

    /// <summary>Brings the other end up to date. When it returns, the function reaches nothing that the port does not reach any more.</summary>
    internal void Refresh()
    {
        lock (_lock)
        {
            if (_ended)
                return;
            var map = port.Snapshot();
            var wanted = new Dictionary<IovaRange, RemoteMap>(map.Ranges.Length);
            foreach (var range in map.Ranges)
                Cut(map, range, wanted);
            foreach (var (range, shown) in _shown.ToArray())
            {
                if (!wanted.TryGetValue(range, out var now) || !IsSame(shown, now))
                    Hide(range);
            }

            foreach (var (range, memory) in wanted)
            {
                if (!_shown.ContainsKey(range))
                    Show(memory);
            }

            // Mapped for the function as long as it is shown.
            _held?.Dispose();
            _held = map;
        }
    }

    /// <summary>Takes everything away from the function, for good.</summary>
    internal void End()
    {
        lock (_lock)
        {
            _ended = true;
            foreach (var range in _shown.Keys.ToArray())
                Hide(range);
            _held?.Dispose();
            _held = null;
        }
    }

    public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
    {
        fault = port.TryRead(address, destination) ? Fault.None : Reason();
        return fault == Fault.None;
    }

    public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
    {
        fault = port.TryWrite(address, source) ? Fault.None : Reason();
        return fault == Fault.None;
    }

    // The same addresses may have other memory behind them by now.
    private static bool IsSame(in RemoteMap shown, in RemoteMap now) =>
        shown.Access == now.Access && shown.Address == now.Address && shown.FileOffset == now.FileOffset;

    private Fault Reason() => port.LastFault?.Fault ?? new Fault(Errno.EFAULT, "the address is not mapped");

    private void Cut(IoMap map, in IoRange range, Dictionary<IovaRange, RemoteMap> pieces)
    {
        var hint = 0;
        for (var done = 0UL; done < range.Size;)
        {
            var size = Math.Min(range.Size - done, link.LargestMap);
            var piece = new IovaRange(new Iova(range.Start.Value + done), size);
            var look = (uint)Math.Min(size, LongestLook);
            // A range is one piece of this process's memory, so that its begin says where all of it is.
            var address = map.TryTranslate(piece.Start, look, range.Access, ref hint, out var run) && (ulong)run.Length == look ? run.Address : 0;
            pieces[piece] = new RemoteMap(piece, range.Access, address, range.File, range.File is null ? 0 : range.FileOffset + done, this);
            done += size;
        }
    }

    private void Show(in RemoteMap map)
    {
        // A range that cannot be shown is one that the function faults on. A peer counts that itself.
        if (link.TryMap(map, out var fault))
            _shown.Add(map.Range, map);
        else if (!link.IsPeer)
            RemoteLog.NotMapped(log, link.Name, map.Range.Start.Value, map.Range.Size, fault.Errno);
    }

    private void Hide(IovaRange range)
    {
        link.TryUnmap(range, out _);
        _shown.Remove(range);
    }
}
