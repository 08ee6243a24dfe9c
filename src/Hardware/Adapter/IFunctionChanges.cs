using Virtbus.Memory.Dma;

namespace Virtbus.Hardware.Adapter;

/// <summary>What happened in a function by itself and its driver was not told yet.</summary>
internal interface IFunctionChanges
{
    /// <summary>Tells it by events. What has no room now, or only that which is kept for an answer, is told when the driver has taken events.</summary>
    /// <param name="dma">The way to the event ring.</param>
    /// <param name="kept">How many events are kept for answers.</param>
    /// <returns>False when the function stopped.</returns>
    bool TryTell(DmaPort dma, uint kept);
}
