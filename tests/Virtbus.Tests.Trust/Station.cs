namespace Virtbus.Tests.Trust;

/// <summary>A queue set that frames go from and to.</summary>
/// <param name="driver">The function's driver.</param>
/// <param name="function">The function's number in addresses.</param>
/// <param name="set">The queue set.</param>
internal sealed class Station(NicDriver driver, uint function, int set)
{
    public byte[] Address { get; } = NicFrame.AddressOf(function, set);

    public NicQueueSet Queue => driver[set];

    public NicDriver Driver => driver;

    /// <summary>Which of the function's interrupts is the queue set's.</summary>
    public int Vector => 1 + set;
}
