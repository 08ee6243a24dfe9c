namespace Virtbus.Provisioning;

/// <summary>When an attribute of a profile may change.</summary>
public enum FieldChange
{
    /// <summary>Before activation only: what is active has to be deactivated for it.</summary>
    BeforeActivation,

    /// <summary>While the function is active too; the provider carries the change out.</summary>
    WhileActive,
}
