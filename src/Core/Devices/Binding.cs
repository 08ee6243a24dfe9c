namespace Virtbus.Core;

/// <summary>
/// What a device's binding is at one moment. Immutable, and shared by all devices of a driver, so a reader takes state and driver in
/// one read without a lock and a bound device costs no extra object.
/// </summary>
/// <param name="State">The relation.</param>
/// <param name="Driver">The driver of a device that is not unbound.</param>
public sealed record Binding(BindingState State, Driver? Driver)
{
    internal static readonly Binding Unbound = new(BindingState.Unbound, null);
}
