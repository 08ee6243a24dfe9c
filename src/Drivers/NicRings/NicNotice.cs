using Virtbus.Platform;

namespace Virtbus.Drivers.NicRings;

/// <summary>An event of a function as it lies in the event ring.</summary>
/// <param name="Type">Which kind.</param>
/// <param name="Status">0, or an error number.</param>
/// <param name="Tag">What it is about.</param>
/// <param name="First">Result 0.</param>
/// <param name="Second">Result 1.</param>
internal readonly record struct NicNotice(NicNoticeType Type, Errno Status, uint Tag, ulong First, ulong Second);
