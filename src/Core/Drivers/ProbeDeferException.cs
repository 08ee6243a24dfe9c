using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// Thrown by a probe that lacks something which may come later. The device goes to the list of deferred devices with the reason and is
/// tried again whenever any driver binds.
/// </summary>
/// <param name="reason">What is waited for, in words that an operator understands.</param>
public sealed class ProbeDeferException(string reason) : VirtbusException(Errno.EPROBE_DEFER, reason);
