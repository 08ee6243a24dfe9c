using Virtbus.Core;

namespace Virtbus.Drivers.Nic;

/// <summary>
/// What a core driver is for the drivers of its parts, whatever make and generation of adapter is below and whether that is a physical function
/// or a virtual one (MS-05, MS-08). What a make has it offers, one interface a capability: <see cref="INicLink"/>, <see cref="INicQueueSets"/>,
/// <see cref="INicVirtio"/>, <see cref="INicMigration"/>, or one that it shares with a part driver alone. Valid until the part's device is
/// deleted. Any thread.
/// </summary>
public interface INicCore
{
    /// <summary>The hardware's device: parent of what parts register with their subsystems (VB-17).</summary>
    Device Device { get; }

    /// <summary>A capability of the function.</summary>
    /// <typeparam name="T">The interface that stands for it.</typeparam>
    /// <returns>The same object each time; null when the function has no such capability.</returns>
    T? Find<T>()
        where T : class;
}
