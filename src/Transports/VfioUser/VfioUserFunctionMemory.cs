using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// Shows a served function's server what the function's slot reaches: memory with a file is mapped there, the rest is served by messages
/// through the function's port, where permissions and faults are those of any other DMA. Safe from any thread.
/// </summary>
internal sealed class VfioUserFunctionMemory(VfioUserClient client, DmaPort port) : IRemoteMemory
{
    private readonly Lock _lock = new();
    private readonly Dictionary<(ulong Start, ulong Size), DmaAccess> _shown = [];
    private bool _ended;

    /// <summary>Brings the server up to date. When it returns, the server reaches nothing that the port does not reach any more.</summary>
    internal void Refresh()
    {
        lock (_lock)
        {
            if (_ended)
                return;
            using var map = port.Snapshot();
            var wanted = new Dictionary<(ulong, ulong), DmaAccess>(map.Ranges.Length);
            foreach (var range in map.Ranges)
                wanted[(range.Start.Value, range.Size)] = range.Access;
            foreach (var (key, access) in _shown.ToArray())
            {
                if (!wanted.TryGetValue(key, out var now) || now != access)
                    Hide(key);
            }

            foreach (var range in map.Ranges)
            {
                if (!_shown.ContainsKey((range.Start.Value, range.Size)))
                    Show(range);
            }
        }
    }

    /// <summary>Takes everything away from the server, for good.</summary>
    internal void End()
    {
        lock (_lock)
        {
            _ended = true;
            foreach (var key in _shown.Keys.ToArray())
                Hide(key);
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

    private Fault Reason() => port.LastFault?.Fault ?? new Fault(Errno.EFAULT, "the address is not mapped");

    private void Show(in IoRange range)
    {
        var where = new IovaRange(range.Start, range.Size);
        // A range that cannot be shown is one that the function faults on; that is counted at its server.
        var shown = range.File is { } file
            ? client.TryMapDma(where, this, range.Access, file, range.FileOffset, out _)
            : client.TryMapDma(where, this, range.Access, out _);
        if (shown)
            _shown.Add((range.Start.Value, range.Size), range.Access);
    }

    private void Hide((ulong Start, ulong Size) key)
    {
        client.TryUnmapDma(new IovaRange(new Iova(key.Start), key.Size), out _);
        _shown.Remove(key);
    }
}
