using Virtbus.Platform;

namespace Virtbus.Pci;

/// <summary>
/// One function of PCI hardware as the bus sees it: config space, BARs, DMA as bus master, INTx, MSI and MSI-X, reset. Nothing else crosses
/// this wall, so a simulated function, one that another process serves and a real one look alike.
/// </summary>
/// <remarks>
/// Calls may come from any thread and at once; the function orders them. Accesses never fail: what is not there reads as all ones and
/// swallows writes, as on the bus. A function gone for good (its server died) reads as all ones everywhere.
/// </remarks>
public interface IPciFunction : IDisposable
{
    /// <summary>Bytes of config space: 256, or 4096 for PCI Express.</summary>
    int ConfigSize { get; }

    /// <summary>Whether the function is still there.</summary>
    bool IsPresent { get; }

    /// <summary>Whether it is hardware of this host, which may know ways to memory beside <see cref="IPciPort.Dma"/>.</summary>
    bool IsReal => false;

    /// <summary>Called once, on any thread, when the function is gone for good; null takes the handler off.</summary>
    /// <param name="lost">The handler; it must not block.</param>
    void SetLostCallback(Action? lost);

    /// <summary>Reads config space.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to; any length that stays inside.</param>
    void ReadConfig(int offset, Span<byte> destination);

    /// <summary>Writes config space; read-only bits keep their value.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from; any length that stays inside.</param>
    void WriteConfig(int offset, ReadOnlySpan<byte> source);

    /// <summary>What a base address register decodes.</summary>
    /// <param name="bar">0 to 5, or <see cref="PciBar.Rom"/>.</param>
    PciBar GetBar(int bar);

    /// <summary>The parts of a BAR that may be mapped; none for most.</summary>
    /// <param name="bar">0 to 5, or <see cref="PciBar.Rom"/>.</param>
    IReadOnlyList<PciBarArea> GetBarAreas(int bar);

    /// <summary>Reads registers. The bus has checked that the function has the BAR, that it decodes it, and that the range lies inside.</summary>
    /// <param name="bar">0 to 5, or <see cref="PciBar.Rom"/>.</param>
    /// <param name="offset">First byte in the BAR.</param>
    /// <param name="destination">Where to: 1, 2, 4 or 8 bytes for one register, other lengths for a copy.</param>
    void ReadBar(int bar, ulong offset, Span<byte> destination);

    /// <summary>Writes registers. The bus has checked what it checks for <see cref="ReadBar"/>. What is written to the ROM is lost.</summary>
    /// <param name="bar">0 to 5, or <see cref="PciBar.Rom"/>.</param>
    /// <param name="offset">First byte in the BAR.</param>
    /// <param name="source">Where from.</param>
    void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> source);

    /// <summary>The doorbells that an eventfd can stand for.</summary>
    IReadOnlyList<PciDoorbell> Doorbells { get; }

    /// <summary>Lets signals of an eventfd stand for writes to a doorbell.</summary>
    /// <param name="doorbell">One of <see cref="Doorbells"/>.</param>
    /// <param name="signal">The function takes a duplicate; null detaches.</param>
    /// <param name="fault">ENOENT: no such doorbell; EOPNOTSUPP.</param>
    bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault);

    /// <summary>Puts the function into a slot. Before that, and after <see cref="Unplug"/>, it does no DMA and raises no interrupt.</summary>
    /// <param name="port">What it finds there.</param>
    void Plug(IPciPort port);

    /// <summary>Takes the function out of its slot; when the call returns, none of its DMA or interrupts is under way.</summary>
    void Unplug();

    /// <summary>The slot's reset line: everything is as after power-on. A function-level reset is a bit in config space instead.</summary>
    void Reset();

    /// <summary>
    /// The virtual functions: as many as NumVFs says while VF Enable is set in the SR-IOV capability, else none. Their config spaces read
    /// all ones for the ids, as the standard wants; the bus takes those from the physical function.
    /// </summary>
    IReadOnlyList<IPciFunction> VirtualFunctions { get; }
}
