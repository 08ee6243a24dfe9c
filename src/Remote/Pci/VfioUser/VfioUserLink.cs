using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>A function that another process serves over vfio-user.</summary>
internal sealed class VfioUserLink : IRemoteLink
{
    private readonly VfioUserClient _client;
    private Action? _lost;
    private bool _isLost;

    /// <summary>Connects.</summary>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    /// <exception cref="VirtbusException">As <see cref="VfioUserClient.Connect"/>; ENODEV: the device is no PCI function.</exception>
    internal VfioUserLink(string path, VfioUserClientOptions options, CancellationToken cancellationToken)
    {
        Name = path;
        _client = VfioUserClient.Connect(path, options with { Lost = Lose, ServeMemory = true }, cancellationToken);
        if (_client.Info.IsPci)
            return;
        _client.Dispose();
        throw Refuse(new Fault(Errno.ENODEV, "the device is no PCI function"));
    }

    public string Name { get; }

    public bool IsPeer => true;

    public bool CanReset => _client.Info.CanReset;

    // One range is one message, and servers have few of them.
    public ulong LargestMap => ulong.MaxValue;

    public void SetLostCallback(Action lost)
    {
        Interlocked.Exchange(ref _lost, lost);
        if (Volatile.Read(ref _isLost))
            Interlocked.Exchange(ref _lost, null)?.Invoke();
    }

    public VirtbusException Refuse(Fault fault) => new(fault.Errno,
        $"The server of '{Name}' offers nothing that can be a PCI function: {fault.Errno}, {fault.Message}. Look at what it serves.");

    public bool TryGetRegion(uint index, out VfioRegionInfo info, out Fault fault)
    {
        var done = _client.TryGetRegionInfo(index, out var found, out fault);
        info = found ?? new VfioRegionInfo(VfioRegionFlags.None, 0);
        return done;
    }

    public IReadOnlyList<(VfioDoorbell Register, EventFd Signal)> GetDoorbells(uint region) =>
        _client.TryGetDoorbells(region, out var doorbells, out _) ? [.. doorbells.Select(d => (d.Register, d.Signal))] : [];

    public uint GetVectors(uint index) => _client.TryGetIrqInfo(index, out var info, out _) ? info.Count : 0;

    public bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault) => _client.TryRead(region, offset, destination, out fault);

    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault) => _client.TryWrite(region, offset, source, out fault);

    public bool TrySetIrqs(in VfioIrqSet set, out Fault fault) => _client.TrySetIrqs(set, out fault);

    public bool TryReset(out Fault fault) => _client.TryReset(out fault);

    // Memory with a file is mapped by the server; the rest it asks for by messages.
    public bool TryMap(in RemoteMap map, out Fault fault) => map.File is { } file
        ? _client.TryMapDma(map.Range, map.Messages, map.Access, file, map.FileOffset, out fault)
        : _client.TryMapDma(map.Range, map.Messages, map.Access, out fault);

    public bool TryUnmap(IovaRange range, out Fault fault) => _client.TryUnmapDma(range, out fault);

    public void Close(Fault reason) => _client.Close(reason);

    public void Dispose() => _client.Dispose();

    /// <summary>Ends the link, and with it every wait for the server, when a token says so, until the answer is disposed.</summary>
    internal CancellationTokenRegistration CloseWhen(CancellationToken token) => _client.CloseWhen(token);

    private void Lose()
    {
        Volatile.Write(ref _isLost, true);
        Interlocked.Exchange(ref _lost, null)?.Invoke();
    }
}
